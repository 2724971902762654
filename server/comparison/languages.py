"""The languages that a comparison speaks."""

from __future__ import annotations

from collections.abc import Mapping

from fedwon.server.comparison.english import ENGLISH
from fedwon.server.comparison.japanese import JAPANESE
from fedwon.server.comparison.texts import Language, Texts

LANGUAGES: Mapping[Language, Texts] = {"en": ENGLISH, "ja": JAPANESE}
