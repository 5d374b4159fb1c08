"""The view page: a part is what the whole would be, `save` does what `denoise` does, and strangers are refused."""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_dng import write
from synthetic import expose

from rawkit.parallel import last
from rawkit.raw.develop import develop, upright
from rawkit.raw.image import CFA, BlackLevel, Metadata, RawImage
from rawkit.raw.read import read_raw
from rawkit.raw.tiff import DOUBLE, SHORT, Entry
from rawkit.resources import bundled_weights
from rawkit.restore.denoise import Denoiser, default_denoiser
from rawkit.restore.files import DenoiseSettings, denoise_file
from rawkit.sensor.database import FoundNoise
from rawkit.sensor.params import NoiseParams
from rawkit.view.folder import Folder, OutsideError, UnknownFileError
from rawkit.view.picture import Box, Opened, denoised_part, rendered_part, stored_box, with_margin
from rawkit.view.session import Look, Session, StaleError

fastapi = pytest.importorskip("fastapi", reason="the extra view is not installed")

GAIN, READ, BLACK, WHITE = 2.0, 6.0, 512, 16383
NOISE = FoundNoise(NoiseParams(GAIN, READ**2), "given", "made up")
TOKEN, PORT = "a-token", 4711
HOME = f"http://127.0.0.1:{PORT}"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def scene(height, width):
    """Expected electrons: soft waves and hard edges."""
    y, x = np.mgrid[:height, :width]
    return 150 + 100 * np.sin(x / 31) * np.cos(y / 23) + 80 * ((x // 64 + y // 48) % 2)


def noisy(electrons, seed=1):
    return expose(electrons, system_gain=GAIN, read_noise=READ, rng=np.random.default_rng(seed))


def dng(folder, name="picture.dng", *, size=(300, 400), orientation=1, seed=1):
    """400 x 300 pixels whose DNG tag tells their noise."""
    span = WHITE - BLACK
    tags = [
        Entry.make(50714, SHORT, BLACK), Entry.make(50717, SHORT, WHITE), Entry.make(34855, SHORT, 800),
        Entry.make(274, SHORT, orientation), Entry.make(51041, DOUBLE, [GAIN / span, (READ / span) ** 2]),
    ]  # fmt: skip
    return write(folder, noisy(scene(*size), seed), name, first_tags=tags)


def opened(raster, *, pattern="RGGB", orientation=1):
    image = RawImage(
        raster=raster, cfa=CFA.bayer(pattern), black=BlackLevel.constant(BLACK), white_level=WHITE,
        metadata=Metadata(as_shot_neutral=(0.5, 1.0, 0.7), orientation=orientation, iso=800.0),
    )  # fmt: skip
    return Opened(Path("x.dng"), image, NOISE, "made up")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "raws"
    path.mkdir()
    dng(path)
    return path


def session_of(path, **settings):
    return Session(Folder.of(path), DenoiseSettings(threads=1, **settings))


# ------------------------------------------------------------------------------------------- parts of a picture


def test_a_part_is_what_the_whole_frame_would_be():
    """Inside its margin a part differs from the whole by no more than two ways to cut the whole into tiles differ, its
    border no more than its middle, and it is as near the truth as the whole is."""
    electrons = scene(840, 840)  # four tiles
    given, denoiser = opened(noisy(electrons)), Denoiser.load("classical")
    whole = denoiser(given.image, NOISE.params, workers=1).signal()
    cut_off = 40
    fewer = replace(given.image, raster=given.image.raster[cut_off:, cut_off:])  # one tile
    other = denoiser(fewer, NOISE.params, workers=1).signal()
    sigma = np.sqrt(GAIN**2 * electrons + READ**2)
    tilings = ((other - whole[cut_off:, cut_off:]) / sigma[cut_off:, cut_off:])[100:-100, 100:-100]
    at_edge, inside, of_part, of_whole = [], [], [], []
    for box in (Box(351, 349, 300, 240), Box(601, 100, 199, 301)):
        part = denoised_part(given, denoiser, box, strength=1.0, workers=1)
        here, result = box.rows_columns(), part.after.signal()[part.inner.rows_columns()]
        difference = (result - whole[here]) / sigma[here]
        edge = np.ones(difference.shape, bool)
        edge[8:-8, 8:-8] = False
        at_edge.append(difference[edge])
        inside.append(difference[~edge])
        of_part.append((result - GAIN * electrons[here]) / sigma[here])
        of_whole.append((whole[here] - GAIN * electrons[here]) / sigma[here])

    def rms(parts):
        return np.sqrt(np.mean(np.concatenate([p.ravel() for p in parts]) ** 2))

    # Errors are correlated over patches of 10 pixels: the borders hold 150 or so of them, the middles 1000.
    assert rms(inside) < (1 + 4 / 2000**0.5) * 1.2 * rms([tilings])  # parts are smaller than tiles and learn from less
    assert rms(at_edge) < (1 + 4 / 300**0.5) * rms(inside)
    assert rms(of_part) < 1.05 * rms(of_whole)


def test_pixels_known_to_be_defective_are_repaired_in_a_part():
    """Two pixels at the white level: the one that is named takes its neighbors' level."""
    electrons = np.full((300, 300), 150.0)
    raster = noisy(electrons)
    raster[150, 150] = raster[170, 170] = WHITE
    given = replace(opened(raster), defects=np.array([[150, 150], [5, 5]]))
    part = denoised_part(given, Denoiser.load("classical"), Box(120, 130, 90, 80), strength=1.0, workers=1)
    result = part.after.signal()[part.inner.rows_columns()]
    assert abs(result[20, 30] - 300) < 4 * (GAIN**2 * 150 + READ**2) ** 0.5
    assert result[40, 50] > 5000


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_find_their_pixels_whatever_the_orientation(orientation):
    stored = np.arange(30 * 20 * 1).reshape(30, 20, 1)
    picture = upright(stored, orientation)
    box = Box(3, 5, 8, 11)
    back = stored_box(box, *picture.shape[:2], orientation)
    turned = upright(stored[back.rows_columns()], orientation)
    assert np.array_equal(turned, picture[box.rows_columns()])


@pytest.mark.parametrize(("pattern", "orientation"), [("RGGB", 1), ("GBRG", 6), ("BGGR", 3), ("GRBG", 8)])
def test_an_untouched_part_is_rendered_as_in_the_whole(pattern, orientation):
    """At strength 0 the part is the whole picture's, bit for bit, before and after."""
    given = opened(noisy(scene(301, 401)), pattern=pattern, orientation=orientation)
    whole = develop(given.image, exposure=2.0)
    box = Box(101, 33, 97, 120)
    part = denoised_part(given, Denoiser.load("classical"), box, strength=0.0)
    shown = rendered_part(given, part, exposure=2.0)
    assert np.array_equal(shown.before, whole[box.rows_columns()])
    assert np.array_equal(shown.after, shown.before)
    assert shown.residual.shape == (120, 97)


def test_margins_are_whole_periods_inside_the_picture():
    for period in ((2, 2), (6, 6)):
        for left in range(0, 300, 7):
            box = Box(left, left // 2, 31, 17)
            outer = with_margin(box, 403, 395, period)
            assert outer.left % period[1] == 0
            assert outer.top % period[0] == 0
            assert outer.right == 395 or (outer.right % period[1] == 0 and outer.right >= box.right + 64)
            assert outer.left == 0 or outer.left <= box.left - 64
            assert outer.bottom <= 403


# -------------------------------------------------------------------------------------------------- the session


def test_a_part_is_computed_once_for_each_look(folder, monkeypatch):
    """Another exposure, or going back, is not denoised again; another strength is."""
    session, runs, call = session_of(folder), [], Denoiser.__call__

    def counted(self, *given, **options):
        runs.append(options["strength"])
        return call(self, *given, **options)

    monkeypatch.setattr(Denoiser, "__call__", counted)
    box = Box(20, 20, 64, 48)
    first = session.show("picture.dng", Look(), box, exposure=1.0)
    session.show("picture.dng", Look(strength=0.5), box, exposure=1.0)
    again = session.show("picture.dng", Look(), box, exposure=1.0)
    bright = session.show("picture.dng", Look(), box, exposure=4.0)
    assert runs == [1.0, 0.5]
    assert np.array_equal(first.comparison.after, again.comparison.after)
    assert bright.comparison.after.mean() > 1.2 * first.comparison.after.mean()


def test_a_changed_file_is_read_again(folder):
    session = session_of(folder)
    before = session.opened("picture.dng").image.mosaic.copy()
    dng(folder, size=(200, 200), seed=2)
    assert session.opened("picture.dng").image.mosaic.shape != before.shape


def test_the_noise_check_tells_a_wrong_profile(tmp_path):
    """The same picture with a tag that states twice the variance is noticed."""
    span = WHITE - BLACK
    tags = [
        Entry.make(50714, SHORT, BLACK), Entry.make(50717, SHORT, WHITE), Entry.make(34855, SHORT, 800),
    ]  # fmt: skip
    flat = noisy(np.full((300, 400), 300.0))
    for name, share in (("right.dng", 1.0), ("wrong.dng", 2.0)):
        tag = Entry.make(51041, DOUBLE, [share * GAIN / span, share * (READ / span) ** 2])
        write(tmp_path, flat, name, first_tags=[*tags, tag])
    session, box = session_of(tmp_path), Box(0, 0, 400, 300)
    checks = {n: session.show(n, Look(), box, exposure=1.0).comparison.check for n in ("right.dng", "wrong.dng")}
    assert checks["right.dng"].warning is None
    assert "times the variance" in checks["wrong.dng"].warning
    # 2 x 2 differences of so many blocks of 8 x 8; that the flattest were chosen takes a few percent
    error = 4 * (2 / (16 * checks["wrong.dng"].blocks)) ** 0.5
    assert checks["wrong.dng"].ratio == pytest.approx(0.5, rel=error + 0.05)


def test_the_model_of_the_command_line_is_offered_first_and_no_other_file(folder):
    from rawkit.errors import WeightsError

    session = session_of(folder, model="mine/some.safetensors")
    assert session.models[:2] == ("mine/some.safetensors", "classical")
    with pytest.raises(WeightsError, match="was not offered"):
        session.show("picture.dng", Look(model="other.safetensors"), Box(0, 0, 64, 64), exposure=1.0)
    with pytest.raises(WeightsError, match="was not offered"):
        session.save("picture.dng", Look(model="other.safetensors"))


def test_without_noise_parameters_the_picture_is_shown_as_it_is(folder):
    session = session_of(folder, camera="Nobody's camera")
    shown = session.show("picture.dng", Look(), Box(0, 0, 64, 64), exposure=1.0)
    assert not shown.denoised
    assert session.opened("picture.dng").source.startswith("not known (")


def test_overtaken_work_is_dropped(folder):
    session = session_of(folder)
    numbers = [session.newest("mine") for _ in range(3)]
    session.newest("another page")
    assert [session.is_stale("mine", n) for n in numbers] == [True, True, False]
    with pytest.raises(StaleError):
        session.show("picture.dng", Look(), Box(0, 0, 64, 64), exposure=1.0, overtaken=lambda: True)
    _two_tiles(session)
    asked = iter([False, True])  # overtaken between the first tile and the second
    with pytest.raises(StaleError):
        session.show("picture.dng", Look(), Box(0, 0, 64, 64), exposure=1.0, overtaken=lambda: next(asked))


def _two_tiles(session):
    """Make every part two tiles, as a part of a large screen is."""
    given = session._denoiser("classical")

    def two(planes, params, *, strength, workers, progress=None, **_):
        progress(1, 2)
        progress(2, 2)
        return planes

    session._denoisers.values["classical"] = replace(given, bayer_filter=two)


def test_what_is_saved_is_what_denoise_saves_and_nothing_is_replaced_unasked(folder, tmp_path):
    session = session_of(folder)
    look = Look(strength=1.2, chroma_strength=0.6)
    target = folder / "picture_denoised.dng"
    result = session.save("picture.dng", look)
    assert result["status"] == "done"
    reference = tmp_path / "reference.dng"
    settings = DenoiseSettings(threads=1, strength=1.2, chroma_strength=0.6)
    last(denoise_file(folder / "picture.dng", reference, settings, write=reference))
    first = read_raw(target)
    assert np.array_equal(first.mosaic, read_raw(reference).mosaic)
    assert first.metadata.noise_profile == read_raw(reference).metadata.noise_profile

    kept = target.read_bytes()
    assert session.save("picture.dng", look)["status"] == "already done"
    assert session.save("picture.dng", Look())["status"] == "skipped"
    assert target.read_bytes() == kept
    assert session.save("picture.dng", Look(), overwrite=True)["status"] == "done"
    assert target.read_bytes() != kept
    assert sorted(p.name for p in folder.iterdir()) == [".rawkit.jsonl", "picture.dng", "picture_denoised.dng"]
    assert session.folder.names() == ["picture.dng"]  # what was made is not offered again


def test_a_save_that_is_stopped_leaves_nothing(folder):
    session = session_of(folder)
    session.stop()
    with pytest.raises(Exception, match="was not written"):
        session.save("picture.dng", Look())
    assert [p.name for p in folder.iterdir()] == ["picture.dng"]


def test_only_files_of_the_folder_are_found(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for path in (inside, outside):
        path.mkdir()
        dng(path, "a.dng", size=(16, 16))
    (inside / "link.dng").symlink_to(outside / "a.dng")
    (inside / "round.dng").symlink_to(inside / "a.dng")
    folder = Folder.of(inside)
    assert folder.names() == ["a.dng", "round.dng"]
    assert folder.path("a.dng") == inside / "a.dng"
    for name in (
        "../out/a.dng",
        str(outside / "a.dng"),
        "link.dng",
        "a.dng\0",
        "\0",
        "C:\\a.dng",
        "..\\out\\a.dng",
        "..",
    ):
        with pytest.raises(OutsideError):
            folder.path(name)
    for name in ("", ".", "b.dng", "sub/a.dng", ".hidden.dng"):
        with pytest.raises(UnknownFileError):
            folder.path(name)
    alone = Folder.of(inside / "a.dng")
    assert alone.names() == ["a.dng"]
    with pytest.raises(UnknownFileError):
        alone.path("round.dng")


# --------------------------------------------------------------------------------------------------- the server


class Served:
    """The server without a network; every request is answered before the next."""

    def __init__(self, session):
        from rawkit.view.server import guarded_app

        self.app = guarded_app(session, token=TOKEN, port=PORT)

    def client(self):
        import httpx

        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url=HOME)

    def request(self, method, path, **options):
        async def one():
            async with self.client() as client:
                return await client.request(method, path, **options)

        return asyncio.run(one())

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, **options):
        return self.request("POST", path, **options)


ASKED = {"file": "picture.dng", "model": "classical", "page": "p", "left": 10, "top": 10, "width": 64, "height": 48}


def test_the_page_is_one_document_that_loads_nothing(folder):
    reply = Served(session_of(folder)).get(f"/?token={TOKEN}")
    assert reply.status_code == 200
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    nonces = set(re.findall(r'nonce="([^"]+)"', reply.text))
    assert len(nonces) == 1
    assert f"'nonce-{nonces.pop()}'" in policy
    assert not re.search(r"""(src|href)=["'](?!data:)|@import|url\(""", reply.text)
    assert TOKEN not in reply.text
    for name, value in {"cache-control": "no-store", "x-content-type-options": "nosniff"}.items():
        assert reply.headers[name] == value
    assert "access-control-allow-origin" not in reply.headers


def test_a_file_is_opened_shown_and_saved(folder):
    client = Served(session_of(folder))
    assert client.get("/api/files", headers=BEARER).json() == {
        "files": ["picture.dng"],
        "models": ["classical", *bundled_weights()],
    }
    told = client.post("/api/open", headers=BEARER, json={"file": "picture.dng"}).json()
    assert (told["width"], told["height"], told["iso"]) == (400, 300, 800)
    assert told["noise"]["source"] == "file tag"
    assert told["overview"].startswith("data:image/")
    part = client.post("/api/part", headers=BEARER, json={**ASKED, "left": 380}).json()
    assert part["box"] == {"left": 336, "top": 10, "width": 64, "height": 48}  # moved into the picture
    assert set(part["pictures"]) == {"before", "after", "residual"}
    assert {"variance_ratio", "warning"} <= set(part["check"])
    saved = client.post("/api/save", headers=BEARER, json={"file": "picture.dng", "model": "classical"}).json()
    assert saved["status"] == "done"
    assert Path(saved["output"]).is_file()
    assert client.get("/api/saving", headers=BEARER).json() == {"done": None, "total": None}


def test_of_several_requests_the_newest_is_answered(folder, monkeypatch):
    """One is at work while three more arrive: of those the last is worked on, the others hear that they are late."""
    session, runs, show = session_of(folder), [], Session.show
    started, go_on = threading.Event(), threading.Event()

    def slow(self, name, look, box, **options):
        if not options["overtaken"]():
            runs.append(box.left)
            started.set()
            assert go_on.wait(10)
        return show(self, name, look, box, **options)

    monkeypatch.setattr(Session, "show", slow)

    async def main():
        async with Served(session).client() as client:
            client.headers.update(BEARER)
            asked = [asyncio.create_task(client.post("/api/part", json={**ASKED, "left": 0}))]
            while not started.is_set():
                await asyncio.sleep(0.01)
            for left in (10, 20, 30):
                asked.append(asyncio.create_task(client.post("/api/part", json={**ASKED, "left": left})))
                while session._count < len(asked):
                    await asyncio.sleep(0.01)
            go_on.set()
            return [reply.status_code for reply in await asyncio.gather(*asked)]

    codes = asyncio.run(main())
    assert codes[1:] == [204, 204, 200]
    assert runs == [0, 30]


JSON = {"Content-Type": "application/json"}
REFUSED = {
    "no token": ({}, "/api/files", None),
    "wrong token": ({"Authorization": "Bearer a-tokem"}, "/api/files", None),
    "token of another form": ({"Authorization": f"Basic {TOKEN}"}, "/api/files", None),
    "token that is no ASCII": ({"Authorization": "Bearer é".encode("latin-1")}, "/api/files", None),
    "page without token": ({}, "/", None),
    "page with wrong token": ({}, "/?token=a", None),
    "foreign host": ({**BEARER, "Host": "evil.example"}, "/api/files", None),
    "foreign host with our port": ({**BEARER, "Host": f"evil.example:{PORT}"}, "/api/files", None),
    "our address with another port": ({**BEARER, "Host": "127.0.0.1:1"}, "/api/files", None),
    "foreign origin": ({**BEARER, "Origin": "http://evil.example"}, "/api/files", None),
    "origin of another port": ({**BEARER, "Origin": "http://127.0.0.1:1"}, "/api/files", None),
    "hidden origin": ({**BEARER, "Origin": "null"}, "/api/files", None),
    "cross-site": ({**BEARER, "Sec-Fetch-Site": "cross-site"}, "/api/files", None),
    "another port of this computer": ({**BEARER, "Sec-Fetch-Site": "same-site"}, "/api/files", None),
    "form": (
        {**BEARER, "Content-Type": "application/x-www-form-urlencoded"}, "/api/open", b'{"file": "picture.dng"}',
    ),
    "plain text": ({**BEARER, "Content-Type": "text/plain"}, "/api/open", b'{"file": "picture.dng"}'),
    "no content type": (BEARER, "/api/open", b'{"file": "picture.dng"}'),
    "far too long": ({**BEARER, **JSON}, "/api/open", b" " * 20_000),
    "step upwards": ({**BEARER, **JSON}, "/api/open", json.dumps({"file": "../secret.dng"}).encode()),
    "absolute path": ({**BEARER, **JSON}, "/api/open", b'{"file": "/etc/passwd"}'),
    "link outwards": ({**BEARER, **JSON}, "/api/open", b'{"file": "link.dng"}'),
    "NUL": ({**BEARER, **JSON}, "/api/open", b'{"file": "picture.dng\\u0000"}'),
    "save of a link outwards": ({**BEARER, **JSON}, "/api/save", b'{"file": "link.dng", "model": "classical"}'),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_strangers_are_refused(folder, case):
    secret = dng(folder.parent, "secret.dng", size=(16, 16))
    (folder / "link.dng").symlink_to(secret)
    headers, path, body = REFUSED[case]
    client = Served(session_of(folder))
    reply = client.get(path, headers=headers) if body is None else client.post(path, headers=headers, content=body)
    assert reply.status_code in (403, 404)
    assert len(reply.text.strip().splitlines()) == 1
    assert "refused" in reply.text
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in reply.headers


def test_other_methods_and_streams_of_unknown_length_are_refused(folder):
    client = Served(session_of(folder))
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD"):
        assert client.request(method, "/api/files", headers=BEARER).status_code == 403

    async def unknown_length():
        yield b'{"file": "picture.dng"}'

    stream = client.post("/api/open", headers={**BEARER, **JSON}, content=unknown_length())
    assert stream.status_code == 403
    for path in ("/docs", "/openapi.json", "/../etc/passwd", "/rawkit/view/page.html"):
        assert client.get(path, headers=BEARER).status_code == 404


def test_a_bad_file_costs_one_line(folder):
    (folder / "bad.dng").write_bytes(b"II*\0" + bytes(100))
    (folder / "cut.dng").write_bytes((folder / "picture.dng").read_bytes()[:5000])
    client = Served(session_of(folder))
    for name in ("bad.dng", "cut.dng"):
        reply = client.post("/api/open", headers=BEARER, json={"file": name})
        assert reply.status_code == 422
        assert name in reply.json()["error"]
        assert "\n" not in reply.json()["error"]
    assert client.post("/api/part", headers=BEARER, json=ASKED).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "/etc/passwd"}, {"model": "../x.safetensors"}, {"strength": -1}, {"strength": "NaN"}, {"width": 0},
        {"width": 10**9}, {"left": 1.5}, {"stops": 1e9}, {"more": 1}, {"file": ["picture.dng"]},
    ],
)  # fmt: skip
def test_a_request_that_makes_no_sense_costs_one_line(folder, wrong):
    reply = Served(session_of(folder)).post("/api/part", headers=BEARER, json={**ASKED, **wrong})
    assert reply.status_code == 422
    assert len(reply.json()["error"].splitlines()) == 1


# -------------------------------------------------------------------------------------------------- the command


@contextmanager
def running(*arguments):
    """`rawkit view` as a process of its own, and the address it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rawkit.cli", "view", *map(str, arguments), "--no-browser"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        match = re.match(r"open (http://127\.0\.0\.1:(\d+)/\?token=[-\w]{43})$", line.strip())
        assert match, line + process.stdout.read()
        yield process, match[1], int(match[2])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_ctrl_c_ends_the_command(folder):
    import httpx

    with running(folder) as (process, address, port):
        assert httpx.get(address, timeout=30).status_code == 200
        with pytest.raises(OSError, match=r"refused|unreachable|not known|timed out"):
            socket.create_connection(("127.0.0.2", port), timeout=2).close()  # leads here too, and is not served
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in out


def test_the_command_says_what_is_missing(folder, tmp_path):
    blocked = "import sys; sys.modules['fastapi'] = None; from rawkit.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", blocked, "view", str(folder)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.strip() == "rawkit: rawkit view needs fastapi; run: pip install 'rawkit-camera[view]'"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, told in (
            ((tmp_path / "none.dng",), "is not there"),
            ((folder, "--port", str(port)), "--port"),
            ((folder, "--model", "nothing"), "no denoiser named"),
        ):
            run = subprocess.run(
                [sys.executable, "-m", "rawkit.cli", "view", *map(str, arguments)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert run.returncode in (1, 2)
            assert told in run.stderr
            assert len(run.stderr.strip().splitlines()) == 1


# -------------------------------------------------------------------------------------------------- the browser


def chromium():
    """A browser's path: the system's, else playwright's own; None without either."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        own = tools.chromium.executable_path
    return own if Path(own).is_file() else None


VIEWS = (("b", "before"), ("r", "residual"), ("a", "after"))
CONTROLS = {"file", "pane", "view", "overview", "model", "strength", "linked", "stops", "save"}


@contextmanager
def pages(playwright, browser_path, address):
    """A function that opens the page at some width, for one that lists what went wrong and who was asked."""
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        troubles, hosts = [], set()

        def opened_at(width, **options):
            page = browser.new_page(viewport={"width": width, "height": 320}, **options)
            page.set_default_timeout(60_000)
            page.on("console", lambda message: troubles.append(message.text))
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else "data"))
            page.goto(address)
            return page, page.locator(".pane img:not(#backdrop):visible")

        yield opened_at, troubles, hosts
        browser.close()


def look_around(page, shot, expect):
    """What holds at any width: nothing sticks out, the keys switch, every control is reached and shows it."""
    expect(page.locator("#status")).to_contain_text("Denoised in")
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for key, name in VIEWS:
        page.keyboard.press(key)
        expect(shot).to_have_attribute("alt", re.compile(name))
        expect(page.locator("#name")).to_have_text(name)
    reached = set()
    for _ in range(16):
        page.keyboard.press("Tab")
        name, kind, outline = page.evaluate(
            "(at => [at.id || at.name || at.tagName, at.type, getComputedStyle(at.type === 'radio' ?"
            " at.nextElementSibling : at).outlineStyle])(document.activeElement)"
        )
        reached.add(name)
        assert outline != "none" or name == "BODY", (name, kind)
    assert reached >= CONTROLS
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter(c => !(c.labels && c.labels.length) &&"
        " !c.textContent.trim() && !c.ariaLabel).map(c => c.id || c.name)"
    )
    assert unnamed == []
    before = shot.get_attribute("src")
    page.locator("#strength").focus()
    page.keyboard.press("Home")
    expect(page.locator("output[for=strength]")).to_have_text("0.00")
    expect(shot).not_to_have_attribute("src", before)


@pytest.mark.slow
def test_a_browser_opens_slides_looks_and_saves(tmp_path):
    """By keyboard and pointer, wide and narrow; the page asks nobody else and keeps its own policy."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if (browser_path := chromium()) is None:
        pytest.skip("no Chromium; install one, or run: playwright install chromium")
    folder = tmp_path / "raws"
    folder.mkdir()
    dng(folder, "a.dng", size=(280, 800))
    dng(folder, "b.dng", size=(200, 240), orientation=6, seed=2)
    (folder / "c.dng").write_bytes(b"II*\0" + bytes(100))
    expect, target = playwright.expect, folder / "a_denoised.dng"
    expect.set_options(timeout=60_000)
    with running(folder) as (_, address, _), pages(playwright, browser_path, address) as (opened_at, troubles, hosts):
        page, shot = opened_at(1100)
        look_around(page, shot, expect)
        page.locator("#linked").uncheck()
        page.locator("#chroma").fill("1.5")
        page.locator("#stops").fill("1")
        expect(page.locator("output[for=stops]")).to_have_text("+1.00 EV")
        place = shot.get_attribute("alt")
        page.locator("#pane").focus()
        page.keyboard.press("ArrowLeft")
        expect(shot).not_to_have_attribute("alt", place)
        page.locator("#overview").click(position={"x": 2, "y": 2})
        expect(shot).to_have_attribute("alt", re.compile(r"at 0, 0$"))
        page.locator("#pane").scroll_into_view_if_needed()
        corner = page.locator("#pane").bounding_box()
        page.mouse.move(corner["x"] + 200, corner["y"] + 100)
        page.mouse.down()
        page.mouse.move(corner["x"] + 180, corner["y"] + 90)
        page.mouse.up()
        expect(shot).to_have_attribute("alt", re.compile(r"at 20, 10$"))

        page.locator("#save").click()
        expect(page.locator("#saved")).to_contain_text("a_denoised.dng written")
        kept, own = target.read_bytes(), tmp_path / "own.dng"
        settings = DenoiseSettings(model=default_denoiser(), strength=0.0, chroma_strength=1.5)
        last(denoise_file(folder / "a.dng", own, settings, write=own))
        assert np.array_equal(read_raw(target).mosaic, read_raw(own).mosaic)

        page, shot = opened_at(400, color_scheme="dark")
        look_around(page, shot, expect)
        page.locator("#save").click()  # other strengths than those of the file that is there
        expect(page.locator("#replace")).to_be_focused()
        assert target.read_bytes() == kept
        page.keyboard.press("Enter")
        expect(page.locator("#saved")).to_contain_text("written")
        assert target.read_bytes() != kept
        assert not troubles

        page.locator("#file").select_option("c.dng")
        expect(page.locator("#trouble")).to_contain_text("c.dng")
        expect(page.locator("#save")).to_be_disabled()
        expect(page.locator("#overview")).to_be_hidden()
        page.locator("#file").select_option("b.dng")
        expect(page.locator("#about")).to_contain_text("200 x 240")
        expect(page.locator("#status")).to_contain_text("Denoised in")
        expect(page.locator("#trouble")).to_be_hidden()
        assert hosts <= {address.split("/")[2], "data"}
