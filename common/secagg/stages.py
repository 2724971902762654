"""What the stages of a sitting are called in messages.

They have Flower's own names for them (its SecAgg+ workflow: setup, share keys, collect masked vectors, unmask); the
third is the site's ordinary training task.
"""

from __future__ import annotations

SECURE = "secure"
"""Name of the record that carries a stage's message."""
SETUP, SHARE_KEYS, UNMASK = "secagg_setup", "secagg_share_keys", "secagg_unmask"
"""Stages that are queries; Flower's message type is `query.` and the name."""
