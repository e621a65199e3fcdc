"""The files of the page: packed on the way, small, and such that a strict policy lets them run."""

import gzip
import re
from importlib import resources

import pytest
from asker import ask, make_gateway
from whole_house import House

from fedbus.gateway.files import files_under, takes_gzip
from fedbus.testing.loop import run_virtual

PAGE = files_under(resources.files("fedbus.gateway") / "page")
SENT_BYTES_MAX = 200_000


def test_a_file_is_packed_for_who_takes_it():
    """The same bytes come out, with a tag of their own, and both tags are known again."""
    address, path = "/page/js/main.js", "js/main.js"
    plain = run_virtual(ask(make_gateway(House()), "GET", address))
    packed = run_virtual(ask(make_gateway(House()), "GET", address, headers={"Accept-Encoding": "br, gzip"}))
    assert plain.body == PAGE[path].data and "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip" and gzip.decompress(packed.body) == PAGE[path].data
    assert packed.headers["ETag"] != plain.headers["ETag"] and packed.headers["Vary"] == "Accept-Encoding"
    for headers in (
        {"If-None-Match": plain.headers["ETag"]},
        {"If-None-Match": packed.headers["ETag"], "Accept-Encoding": "gzip"},
    ):
        assert run_virtual(ask(make_gateway(House()), "GET", address, headers=headers)).status == 304


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [("gzip", True), ("br;q=1.0, GZIP;q=0.5", True), ("*", True), ("", False), ("br", False), ("gzip;q=0", False)],
)
def test_who_takes_gzip_says_so(accepted, takes):
    """A weight of nothing is a refusal (RFC 9110, 12.5.3)."""
    assert takes_gzip(accepted) is takes


def test_the_whole_page_is_small_as_it_is_sent():
    """Every file of every view, the chart library and its licence: less than 200 KB cross the wire."""
    assert len(PAGE) > 20
    assert sum(len(file.packed or file.data) for file in PAGE.values()) < SENT_BYTES_MAX


def test_what_a_module_imports_is_there():
    """Each import of the page's modules leads to one of its files, by a relative path."""
    for path, file in PAGE.items():
        if not path.startswith("js/"):
            continue
        text = file.data.decode()
        for found in re.findall(r'\bfrom "([^"\n]+)";$', text, re.MULTILINE) + re.findall(
            r'\bimport\("([^"]+)"\)', text
        ):
            parts = path.split("/")[:-1]
            for part in found.split("/"):
                parts = parts[:-1] if part == ".." else parts if part == "." else [*parts, part]
            assert found.startswith(".") and "/".join(parts) in PAGE, f"{path} imports {found}"


def test_nothing_on_the_page_reads_markup_or_code_out_of_text():
    """What strangers have named never becomes elements or code: no innerHTML, no eval, no inline script or style."""
    for path, file in PAGE.items():
        text = file.data.decode()
        if path.endswith(".html"):
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son[a-z]+=", text), path
        elif path.startswith("js/"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
            ), path
