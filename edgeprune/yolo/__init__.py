"""Everything that knows Ultralytics. No other folder imports it.

Importing this package switches off what Ultralytics does behind a user's back (installing packages, calling
home) unless the user has decided otherwise in the environment; it must come before `import ultralytics`.
"""

from __future__ import annotations

import os

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")
