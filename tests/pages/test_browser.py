"""Pages in a real browser: no error in its console, molecules turn, sliders move, pictures enlarge."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from anydiff.images import load_images
from anydiff.images.gallery import show_images
from anydiff.molecules.files import write_xyz
from anydiff.molecules.qm9 import load_qm9
from anydiff.molecules.viewers import show_molecules, show_path
from anydiff.pages import Page, film
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.players import show_sketches

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--virtual-time-budget=12000", "--enable-logging=stderr",
]  # fmt: skip

pytestmark = [pytest.mark.skipif(BROWSER is None, reason="there is no browser"), pytest.mark.slow]

ASK = """<script>
const said = [], wait = (ms) => new Promise((done) => setTimeout(done, ms));
addEventListener("error", (event) => said.push(`error: ${event.message}`));
function drag(target, x, y) {
  const box = target.getBoundingClientRect();
  const at = (name, dx) => target.dispatchEvent(new MouseEvent(name, {
    bubbles: true, cancelable: true, buttons: 1, clientX: box.left + x + dx, clientY: box.top + y,
    pageX: box.left + x + dx, pageY: box.top + y + scrollY, which: 1,
  }));
  at("mousedown", 0);
  for (let k = 1; k < 9; k++) at("mousemove", 6 * k);
  at("mouseup", 48);
}
addEventListener("load", async () => {
  await wait(500);
  const found = await (async () => { QUESTION })();
  document.title = JSON.stringify({ found, said });
});
</script></head>"""


def load(text, tmp_path, *flags):
    """What the browser makes of a page, and what it says in its console."""
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, [line for line in said if "GPU stall" not in line]


def ask(page, question, tmp_path, *flags):
    """What a script finds on a page, after all that the browser says of it was nothing."""
    text = page.html().replace("</head>", ASK.replace("QUESTION", question), 1)
    shown, console = load(text, tmp_path, *flags)
    assert console == []
    told = json.loads(re.search(r"<title>(.*?)</title>", shown, re.S)[1])
    assert told["said"] == []
    return told["found"]


def test_molecules_turn_and_the_slider_shows_the_way_from_noise(tmp_path):
    page, molecules = Page("Molecules"), load_qm9("5k", bonds=True).subset(range(8))
    show_molecules(page, molecules)
    one, rng = molecules.subset([7]), np.random.default_rng(0)
    frames = [(one.pos + s * rng.normal(size=one.pos.shape), one.z) for s in (1.5, 0.5, 0.0)]
    write_xyz(tmp_path / "path.xyz", frames)
    show_path(page, tmp_path / "path.xyz")
    question = """
      const box = document.querySelector(".molecules"), canvas = box.querySelector("canvas");
      const views = () => box.viewers.map((viewer) => viewer.getView().slice(4).join());
      const before = views();
      drag(canvas, 60, 60);
      const after = views();
      const way = document.querySelector(".film.molecule"), slider = way.querySelector("input");
      const places = () => way.viewers[0].selectedAtoms({}).map((atom) => atom.x);
      const last = places();
      slider.value = 0;
      slider.dispatchEvent(new Event("input"));
      return {
        turned: before.map((view, k) => view !== after[k]),
        bonds: box.viewers.map((v) => v.selectedAtoms({}).reduce((sum, a) => sum + a.bonds.length, 0)),
        last, first: places(), told: way.querySelector("output").textContent,
      };
    """
    found = ask(page, question, tmp_path)
    assert found["turned"][0]
    assert not any(found["turned"][1:])
    of = [2 * len(molecules.subset([m]).bonds) for m in range(8)]
    assert found["bonds"] == of
    assert found["told"] == "1 of 3"
    assert len(found["first"]) == len(found["last"]) == len(one.z)
    assert np.std(found["first"]) > 1.2 * np.std(found["last"]) > 0.1


def test_sketches_are_drawn_and_films_play(tmp_path):
    page = Page("Sketches")
    show_sketches(page, load_kanji().subset(range(6)), captions=["a", "b"])
    page.add("Film", film(["one", "two", "three"], "words"))
    question = """
      const svg = document.querySelector(".sketches svg");
      // once it is in sight, which a browser beside other programs is told late
      for (let k = 0; k < 80 && !svg.classList.contains("drawn"); k++) await wait(100);
      const before = svg.classList.contains("drawn");
      svg.dispatchEvent(new MouseEvent("click"));
      const path = [...svg.querySelectorAll("path")].at(-1), [pen] = path.getAnimations();
      const seen = (ms) => { pen.currentTime = ms; return Number(getComputedStyle(path).opacity); };
      pen.pause();
      const early = seen(50), late = seen(pen.effect.getComputedTiming().endTime);
      const text = document.querySelector(".film pre"), shown = [text.textContent];
      document.querySelector(".film button").click();
      for (let k = 0; k < 8; k++) { await wait(400); shown.push(text.textContent); }
      return {
        before, early, late, shown,
        button: document.querySelector(".film button").textContent,
      };
    """
    found = ask(page, question, tmp_path)
    assert found["before"]
    assert (found["early"], found["late"]) == (0, 1)
    assert found["shown"][0] == found["shown"][-1] == "three"
    assert {"one", "two"} <= set(found["shown"])
    assert found["button"] == "Play"


def test_images_enlarge(tmp_path):
    page = Page("Images")
    show_images(page, load_images("digits").subset(range(12)))
    question = """
      const image = document.querySelector(".tiles img"), large = document.getElementById("large");
      image.click();
      const shown = large.open && large.querySelector("img").src === image.src;
      const wide = large.querySelector("img").clientWidth / image.clientWidth;
      large.click();
      return { shown, wide, open: large.open, natural: image.naturalWidth };
    """
    found = ask(page, question, tmp_path)
    assert found["shown"] and not found["open"]
    assert found["natural"] == 8
    assert found["wide"] > 3


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_screen(width, tmp_path):
    page = Page("All kinds", "of things")
    show_molecules(page, load_qm9("5k").subset(range(5)))
    show_sketches(page, load_kanji().subset(range(30)))
    show_images(page, load_images("digits").subset(range(30)))
    question = "return [document.documentElement.scrollWidth, innerWidth];"
    wide, inner = ask(page, question, tmp_path, f"--window-size={width},900")
    assert wide <= inner


def test_a_page_without_webgl_says_so(tmp_path):
    page = Page("Molecules")
    show_molecules(page, load_qm9("5k").subset(range(3)))
    without = "<body><script>HTMLCanvasElement.prototype.getContext = () => null;</script>"
    shown, _ = load(page.html().replace("<body>", without, 1), tmp_path)
    assert "need WebGL" in re.sub(r"<script.*?</script>", "", shown, flags=re.S)
