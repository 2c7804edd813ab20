"""The languages of the page, and the list in which a person chooses one.

The server speaks English. ``static/words.js`` exchanges its texts in the browser for those of
``static/words/<language>.json``; it also knows what was chosen, so this list is the same for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping

# Each by its own name, because who looks for it may not read the present one.
LANGUAGES: Mapping[str, str] = {"en": "English", "de": "Deutsch", "es": "Español", "zh": "简体中文"}

LANGUAGE_CHOICE = (
    '<label class="language"><span>Language</span><select><option value="">As the browser says</option>'
    + "".join(f'<option value="{tag}" lang="{tag}" translate="no">{name}</option>' for tag, name in LANGUAGES.items())
    + "</select></label>"
)
