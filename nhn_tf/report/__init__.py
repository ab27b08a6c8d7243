"""What a run has found, for people (report.md, pictures) and for programs (results.json).

write_report("runs/demo")     # writes runs/demo/report/
"""

from nhn_tf import backends as backends
from nhn_tf.report.write import write_report

__all__ = ["write_report"]
