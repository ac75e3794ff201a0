"""The methods' equations as pure functions of tensors; each stands in its method's file."""

from crossdistill.methods.cakd.cakd import cakd_loss
from crossdistill.methods.cskd import cskd_loss
from crossdistill.methods.fbt.fbt import info_nce_loss
from crossdistill.methods.kd import kd_loss
from crossdistill.methods.ofa import ofa_loss
from crossdistill.methods.pat.pat import hcl_loss

__all__ = ["cakd_loss", "cskd_loss", "hcl_loss", "info_nce_loss", "kd_loss", "ofa_loss"]
