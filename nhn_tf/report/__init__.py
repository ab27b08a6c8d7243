"""What a run has found, for people (report.md, pictures) and for programs (results.json).

write_report("runs/demo")     # writes runs/demo/report/
"""

from nhn_tf.storage import backends as backends  # isort: skip
from nhn_tf.report.write import write_report

__all__ = ["write_report"]
