"""The command line `metaaligner`: one module for each command."""

from __future__ import annotations
