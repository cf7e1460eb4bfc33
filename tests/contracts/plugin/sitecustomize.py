"""Python imports this in every process that has this folder on its path: tests start some."""

from __future__ import annotations

import toy_method

toy_method.install()
