"""The model registry on the page: import, lineage, promote, roll back, annotate, download, remove, collect."""

from __future__ import annotations

import re
import urllib.request

import numpy as np
import pytest
from playwright.sync_api import expect

from fedbus.tensors import Manifest, read, to_bytes, write

pytestmark = pytest.mark.slow

ARRAYS = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(4, np.float32)}


def test_a_version_is_promoted_and_rolled_back(open_page):
    """Dialogs give a stage a version and the one before again; the stage says by whom and why, on every view."""
    page = open_page("#/models/seed-2")
    for version, reason in (("seed-2", "first"), ("seed-3", "better <b>by far</b>")):
        page.goto(page.url.split("#")[0] + f"#/models/{version}")
        expect(page.get_by_role("heading", level=1)).to_contain_text(version)
        page.get_by_role("button", name="Promote").click()
        dialog = page.get_by_role("dialog", name=f"Promote {version}")
        dialog.get_by_label("Stage").fill("production")
        if version == "seed-3":
            expect(dialog).to_contain_text("It takes the place of seed-2")
        dialog.get_by_label("Reason").fill(reason)
        dialog.get_by_role("button", name="Promote").click()
        expect(dialog).to_be_hidden()
        expect(page.locator("h1 .badge", has_text="production")).to_be_visible()
    expect(page.get_by_role("region", name="Stages", exact=True)).to_contain_text("better <b>by far</b>")

    page.goto(page.url.split("#")[0] + "#/models?stage=production")
    stages = page.get_by_role("region", name="Stages", exact=True)
    expect(stages.get_by_role("row", name=re.compile("^production"))).to_contain_text("seed-3")
    versions = page.get_by_role("region", name="Versions, newest first")
    expect(versions.get_by_role("row")).to_have_count(2)
    stages.get_by_role("button", name="Roll back").click()
    dialog = page.get_by_role("dialog", name="Roll back production")
    expect(dialog).to_contain_text("seed-3 goes, seed-2 comes back.")
    dialog.get_by_label("Reason").fill("worse at one site")
    dialog.get_by_role("button", name="Roll back").click()
    expect(stages.get_by_role("row", name=re.compile("^production"))).to_contain_text("seed-2")
    expect(versions.get_by_role("link", name="seed-2", exact=True).first).to_be_visible()


def test_a_download_is_what_its_digest_says(open_page, tmp_path):
    """The file that the browser saves has the digest that the page shows, by fedbus's own count."""
    page = open_page("#/models/seed-3")
    with page.expect_download() as started:
        page.get_by_role("link", name="Download").click()
    assert started.value.suggested_filename == "seed-3.safetensors"
    file = tmp_path / "seed-3.safetensors"
    started.value.save_as(file)
    digest = Manifest.of(read(file)).digest
    expect(page.get_by_role("region", name="What it is")).to_contain_text(digest)
    page.get_by_text("How to verify a download").click()
    expect(page.locator("pre", has_text="model_digest")).to_contain_text(digest)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_model_is_imported_from_a_file(open_page, tmp_path, suffix):
    """The dialog sends the file, the version's page shows its arrays and digest; the same name again is refused."""
    file = tmp_path / f"model.{suffix}"
    if suffix == "npz":
        np.savez(file, **ARRAYS)
    else:
        write(file, ARRAYS)
    page = open_page("#/models", expected=("409",))
    for again in (False, True):
        page.goto(page.url.split("#")[0] + "#/models")
        page.get_by_role("button", name="Import").click()
        dialog = page.get_by_role("dialog", name="Import a model")
        dialog.get_by_label("File").set_input_files(file)
        dialog.get_by_label("Version").fill(f"from-{suffix}")
        dialog.get_by_label("Note").fill(f"note {again}")
        dialog.get_by_role("button", name="Import").click()
        if again:
            expect(dialog.get_by_role("alert")).to_contain_text(f"from-{suffix}")
        else:
            expect(page.get_by_role("heading", level=1)).to_contain_text(f"from-{suffix}")
            expect(page.get_by_role("region", name="What it is")).to_contain_text(Manifest.of(ARRAYS).digest)
            expect(page.get_by_role("region", name="Arrays", exact=True)).to_contain_text("3 \u00d7 4")


def test_a_lineage_is_walked_by_keys(open_page):
    """Arrows go from version to version, Enter opens one; a model card is text, whatever it quotes."""
    page = open_page("#/models/seed-2")
    here = page.locator(".node[aria-current=true]")
    expect(here).to_contain_text("seed-2")
    here.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".node:focus")).to_contain_text("seed-3")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".node:focus")).to_contain_text("seed-1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("seed-1")
    page.get_by_text("Model card", exact=True).click()
    expect(page.get_by_role("region", name="More", exact=True).locator("pre")).to_contain_text("seed-1")


def test_a_note_is_kept_and_found(open_page):
    """What is noted beside a version is text on its page, and the list finds it."""
    page = open_page("#/models/seed-1")
    page.get_by_role("button", name="Add a note").click()
    page.get_by_role("textbox", name="Note").fill("a <i>baseline</i> of ours")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".heading")).to_contain_text("a <i>baseline</i> of ours")
    page.goto(page.url.split("#")[0] + "#/models?text=baseline")
    versions = page.get_by_role("region", name="Versions, newest first")
    expect(versions.get_by_role("link", name="seed-1", exact=True)).to_be_visible()
    expect(versions.get_by_role("row")).to_have_count(2)


def test_what_something_needs_is_not_removed(open_page):
    """The dialog says what refers to a version; a collection says what would go, and why not."""
    page = open_page("#/models/seed-3", expected=("409",))
    page.get_by_role("button", name="Promote").click()
    page.get_by_label("Stage").fill("kept-here")
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    expect(page.locator("h1 .badge", has_text="kept-here")).to_be_visible()
    page.get_by_role("button", name="Remove", exact=True).click()
    dialog = page.get_by_role("dialog", name="Remove seed-3")
    dialog.get_by_role("button", name="Remove", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("kept-here")
    page.keyboard.press("Escape")

    page.goto(page.url.split("#")[0] + "#/models")
    page.get_by_role("button", name="Retention").click()
    page.get_by_label("Versions kept of each session").fill("1")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Collect").click()
    dialog = page.get_by_role("dialog", name="Collect")
    expect(dialog.get_by_role("link", name="seed-0", exact=True)).to_be_visible()
    dialog.get_by_text(re.compile("kept, and why")).click()
    expect(dialog.locator(".why")).not_to_be_empty()
    dialog.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Retention").click()
    page.get_by_label("Versions kept of each session").fill("")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_what_nothing_needs_is_removed(open_page, place):
    """A version that was imported and is of no use goes on request, and its page says so."""
    body = to_bytes({"w": np.zeros(3, np.float32)})
    request = urllib.request.Request(f"{place.http_url}/api/v1/models?version=to-go", body, method="POST")
    request.add_header("Content-Type", "application/octet-stream")
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 201
    page = open_page("#/models/to-go")
    page.get_by_role("button", name="Remove", exact=True).click()
    dialog = page.get_by_role("dialog", name="Remove to-go")
    dialog.get_by_label("Reason").fill("of no use")
    dialog.get_by_role("button", name="Remove", exact=True).click()
    expect(dialog).to_be_hidden()
    expect(page.locator("h1 .badge")).to_contain_text(re.compile("retired|removed"))
    expect(page.get_by_role("button", name="Remove", exact=True)).to_be_hidden()
