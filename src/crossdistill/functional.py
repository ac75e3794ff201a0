"""The methods' equations as pure functions of tensors; each stands in its method's file."""

from crossdistill.methods.at import at_loss
from crossdistill.methods.cakd.cakd import cakd_loss
from crossdistill.methods.cskd import cskd_loss
from crossdistill.methods.fbt.fbt import info_nce_loss
from crossdistill.methods.fitnet import fitnet_loss
from crossdistill.methods.foundation import foundation_loss
from crossdistill.methods.kd import kd_loss
from crossdistill.methods.nst import nst_loss
from crossdistill.methods.ofa import ofa_loss
from crossdistill.methods.ofd import ofd_loss
from crossdistill.methods.reviewkd import hcl_loss
from crossdistill.methods.rsd import rsd_loss
from crossdistill.methods.scalekd import scalekd_loss
from crossdistill.methods.vid import vid_loss
from crossdistill.methods.vkd import vkd_loss

__all__ = [
    "at_loss",
    "cakd_loss",
    "cskd_loss",
    "fitnet_loss",
    "foundation_loss",
    "hcl_loss",
    "info_nce_loss",
    "kd_loss",
    "nst_loss",
    "ofa_loss",
    "ofd_loss",
    "rsd_loss",
    "scalekd_loss",
    "vid_loss",
    "vkd_loss",
]
