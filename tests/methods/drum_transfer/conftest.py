from __future__ import annotations

import importlib.util
from pathlib import Path

# The browser that looks at reports looks at the listening page too.
_spec = importlib.util.spec_from_file_location(
    "report_browser", Path(__file__).parents[2] / "report" / "conftest.py"
)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
browser = _module.browser
