"""Versions of what this code writes, each said in this one place."""

from __future__ import annotations

TABLE_SCHEMA = 1
"Of tables: columns, file names, plans and records."
