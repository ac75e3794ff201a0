"""CAKD: `cakd.py` has the equations and the class, the other files its parts."""

from crossdistill.methods.cakd.cakd import CAKD, cakd_loss

__all__ = ["CAKD", "cakd_loss"]
