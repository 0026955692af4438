"""XMP sidecars: what is written, and that all else stays."""

from xml.etree import ElementTree

import pytest

from captioning.sources.caption_fields import xmp_captions
from captioning.writing.sidecars import NEW, has_description, with_description

DARKTABLE = b"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <!-- a comment > with signs -->
  <rdf:Description rdf:about="7"
    xmlns:darktable="http://darktable.sf.net/"
    darktable:note="two&#10;lines &amp; &lt;a>"
    xmlns:dc="http://purl.org/dc/elements/1.1/" %s>
   <darktable:history><rdf:Seq><rdf:li darktable:num="0"/></rdf:Seq></darktable:history>
   %s
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
LANGUAGES = b"""<dc:description><rdf:Alt><rdf:li xml:lang="de">ein Hund</rdf:li>%s</rdf:Alt>
</dc:description>"""
DEFAULT = b'<rdf:li xml:lang="x-default">old</rdf:li>'
TEXT = 'a <dog> & a "cat" \u00e9\U0001f600'


def parts_of(sidecar: bytes) -> list[tuple[str, dict[str, str], str]]:
    """All that a sidecar says but the description and the alternative text."""
    found = []
    for element in ElementTree.fromstring(sidecar).iter():
        own = {k: v for k, v in element.attrib.items() if not k.endswith("}description")}
        name = element.tag.split("}")[1]
        if name not in ("description", "AltTextAccessibility", "Alt", "Description"):
            if own.get("{http://www.w3.org/XML/1998/namespace}lang") != "x-default":
                found.append((name, own, (element.text or "").strip()))
        elif own and name == "Description":
            found.append((name, own, ""))
    return found


@pytest.mark.parametrize(
    "there",
    [
        b"",
        DARKTABLE % (b"", b""),
        DARKTABLE % (b"", LANGUAGES % b""),
        DARKTABLE % (b"", LANGUAGES % DEFAULT),
        DARKTABLE % (b'dc:description="old >"', b""),
        DARKTABLE % (b"", b"<dc:description>old</dc:description>"),
        DARKTABLE % (b"", b"<dc:description/>"),
        DARKTABLE % (b"", b"<dc:description><rdf:Alt/></dc:description>"),
        b"\xef\xbb\xbf" + NEW,
    ],
)
def test_description_and_alternative_text_are_set_and_all_else_stays(there: bytes) -> None:
    changed = with_description(there, TEXT)
    assert xmp_captions(changed.decode("utf-8-sig")) == [TEXT]
    assert changed.count(b"a &lt;dog&gt; &amp; a") == 2
    assert has_description(changed)
    assert b"old" not in changed
    again = with_description(changed, "other")
    assert xmp_captions(again.decode("utf-8-sig")) == ["other"]
    assert again == with_description(there, "other")
    if there:
        before, after = parts_of(there.removeprefix(b"\xef\xbb\xbf")), parts_of(changed)
        assert [one for one in after if one in before] == before
        for kept in (b"two&#10;lines &amp; &lt;a>", b"<!-- a comment > with signs -->"):
            assert (kept in there) == (kept in changed)
        assert (b"ein Hund" in there) == (b"ein Hund" in changed)


def test_what_says_nothing_is_not_captioned() -> None:
    assert not has_description(NEW)
    assert not has_description(DARKTABLE % (b"", b"<dc:description/>"))
    assert has_description(DARKTABLE % (b'dc:description="a"', b""))
    assert has_description(DARKTABLE % (b"", LANGUAGES % b""))


@pytest.mark.parametrize(
    ("sidecar", "said"),
    [
        (b'<!DOCTYPE x [<!ENTITY e "aaaa">]><x>&e;</x>', "declares a document type"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "declares a document type"),
        (b"<x", "no XML"),
        ("<x/>".encode("utf-16"), "no XML in UTF-8"),
        ("<x/>".encode("utf-16-le"), "it holds zeros, as UTF-16 does"),
        (b"<x/>", "holds no RDF"),
        (b"<a>" * 300 + b"</a>" * 300, "nested too deeply"),
    ],
)
def test_what_is_no_sidecar_stays_as_it_is(sidecar: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_description(sidecar, "a dog")


def test_what_xml_cannot_hold_becomes_a_space() -> None:
    assert xmp_captions(with_description(b"", "a\x00dog \ud800").decode()) == ["a dog"]
