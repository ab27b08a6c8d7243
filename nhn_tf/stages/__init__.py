"""The stages' bodies, what runs them, and what resumes and records them."""

from nhn_tf.storage import backends as backends  # isort: skip
from nhn_tf.stages.runner import check, run, set_up

__all__ = ["check", "run", "set_up"]
