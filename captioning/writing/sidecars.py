"""XMP sidecars: the description and alternative text of a picture, as photo programs read them.

`dc:description` and `Iptc4xmpCore:AltTextAccessibility` in the default language. In a sidecar that
is there, these two alone are changed, byte by byte: whatever else it holds stays as it was written.
What comes from others is parsed without entities and document types.
"""

import re
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
IPTC = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
XML = "http://www.w3.org/XML/1998/namespace"
PROPERTIES = (f"{DC} description", f"{IPTC} AltTextAccessibility")
"""Namespace and name, as expat joins them."""
PREFIXES = {DC: "dc", IPTC: "Iptc4xmpCore"}
LARGEST_SIDECAR = 2**24
MOST_DEPTH = 200
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
NEW = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    f'<rdf:RDF xmlns:rdf="{RDF}">\n</rdf:RDF>\n</x:xmpmeta>\n'
).encode()


def with_description(sidecar: bytes, text: str) -> bytes:
    """A sidecar (b"" for a new one) with `text` as its description and its alternative text.

    Raises `ValueError` with what keeps one that is there from being changed.
    """
    data = sidecar or NEW
    for name in PROPERTIES:
        data = _with_text(data, name, text)
    return data


def has_description(sidecar: bytes) -> bool:
    """Whether a sidecar says anything of its picture. Raises `ValueError` as above."""
    found = _find(sidecar, PROPERTIES[0])
    return bool(found.text.strip())


@dataclass
class _Found:
    """Where a property stands in a sidecar, in bytes."""

    rdf_end: int = -1
    """Where the end tag of rdf:RDF begins."""
    about: str = ""
    """What the descriptions are of, as the first of them says."""
    elements: list[tuple[int, int]] = field(default_factory=list)
    attributes: list[tuple[int, int]] = field(default_factory=list)
    """Start tags that give it as an attribute."""
    lists: list[int] = field(default_factory=list)
    """Where the contents of its lists of languages begin."""
    default: tuple[int, int] | None = None
    """The content of the entry in the default language."""
    text: str = ""


def _with_text(data: bytes, name: str, text: str) -> bytes:
    found = _find(data, name)
    content = escape(_UNWRITABLE.sub(" ", text)).encode()
    if found.default and len(found.elements) == 1 and not found.attributes:
        return data[: found.default[0]] + content + data[found.default[1] :]
    namespace, tag = name.split(" ")
    entry = b'<rdf:li xmlns:rdf="%b" xml:lang="x-default">%b</rdf:li>' % (RDF.encode(), content)
    if len(found.lists) == 1 == len(found.elements) and not found.attributes:
        return data[: found.lists[0]] + entry + data[found.lists[0] :]
    if found.rdf_end < 0:
        raise ValueError("it holds no RDF to add a description to")
    prefix = PREFIXES[namespace]
    block = (
        f'<rdf:Description xmlns:rdf="{RDF}" rdf:about={quoteattr(found.about)} '
        f'xmlns:{prefix}="{namespace}"><{prefix}:{tag}><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">'
    ).encode()
    end = f"</rdf:li></rdf:Alt></{prefix}:{tag}></rdf:Description>\n".encode()
    changed = data[: found.rdf_end] + block + content + end + data[found.rdf_end :]
    for start, stop in sorted(found.elements + found.attributes, reverse=True):
        kept = b""
        if (start, stop) in found.attributes:
            kept = _without_attribute(data[start:stop], tag)
        changed = changed[:start] + kept + changed[stop:]
    return changed


def _without_attribute(tag: bytes, name: str) -> bytes:
    """A start tag without the attribute of a name, whatever its prefix."""
    return re.sub(rb"\s+[\w.-]+:%b\s*=\s*(\"[^\"]*\"|'[^']*')" % name.encode(), b"", tag, count=1)


def _find(data: bytes, name: str) -> _Found:
    """Where a property stands."""
    reader = _Reader(data, name)
    try:
        if "\0" in data.decode("utf-8"):
            raise ValueError("it holds zeros, as UTF-16 does")
        reader.parser.Parse(data, True)
    except (expat.ExpatError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no XML in UTF-8: {error}") from None
    return reader.found


class _Reader:
    """Notes where a property stands while expat parses a sidecar."""

    def __init__(self, data: bytes, name: str) -> None:
        self.found, self._data, self._name = _Found(), data, name
        self.parser = expat.ParserCreate("UTF-8", " ")
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self._path: list[str] = []
        self._begins = 0
        """Where the property's element, being read, begins."""
        self._default = 0
        """Where the content of its entry, being read, begins."""
        self._all: list[str] = []

    def _refuse(self, *_: object) -> None:
        raise ValueError("it declares a document type, which no XMP does")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        at, found = self.parser.CurrentByteIndex, self.found
        end = self._tag_end(at)
        if tag == f"{RDF} Description" and self._path[-1:] == [f"{RDF} RDF"]:
            found.about = found.about or attributes.get(f"{RDF} about", "")
            if self._name in attributes:
                found.attributes.append((at, end))
                found.text += attributes[self._name]
        is_open = self._data[end - 2 : end] != b"/>"
        if tag == self._name and self._is_property():
            self._begins = at
        elif self._is_inside() and is_open:
            if tag == f"{RDF} Alt":
                found.lists.append(end)
            elif tag == f"{RDF} li" and attributes.get(f"{XML} lang") == "x-default":
                self._default = end
        self._path.append(tag)
        if len(self._path) > MOST_DEPTH:
            raise ValueError("it is nested too deeply")

    def _end(self, tag: str) -> None:
        at, found = self.parser.CurrentByteIndex, self.found
        self._path.pop()
        is_own = self._data[at : at + 2] == b"</"
        if tag == f"{RDF} RDF" and is_own:
            found.rdf_end = at
        elif tag == self._name and self._is_property():
            found.elements.append((self._begins, self._tag_end(at) if is_own else at))
            found.text += "".join(self._all)
        elif tag == f"{RDF} li" and self._default and self._is_inside():
            found.default, self._default = (self._default, at), 0

    def _text(self, text: str) -> None:
        if self._name in self._path:
            self._all.append(text)

    def _is_property(self) -> bool:
        return self._path[-2:] == [f"{RDF} RDF", f"{RDF} Description"]

    def _is_inside(self) -> bool:
        return self._name in self._path

    def _tag_end(self, start: int) -> int:
        """Where the tag that begins at `start` ends: quoted values may hold what ends tags."""
        match = re.compile(rb"<(?:[^\"'>]|\"[^\"]*\"|'[^']*')*>").match(self._data, start)
        assert match, "expat has read it"
        return match.end()
