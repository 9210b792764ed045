from __future__ import annotations

import hashlib
import io
import json
import resource
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bioie_ray.corpora.catalog import find_reader
from bioie_ray.corpora.download import Release, ReleaseFile, download, with_checksums
from bioie_ray.corpora.reading import SourceError
from bioie_ray.corpora.unpack import unpack

PUBTATOR = b"1|t|Aspirin\n1|a|Ulcer.\n1\t0\t7\tAspirin\tChemical\tD1\n\n"
Serve = Callable[[type[BaseHTTPRequestHandler] | partial[SimpleHTTPRequestHandler]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(handler: type[BaseHTTPRequestHandler] | partial[SimpleHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, serve: Serve) -> tuple[str, Path]:
    folder = tmp_path / "site"
    folder.mkdir()
    return serve(partial(Quiet, directory=str(folder))), folder


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link is not None:
            info = tarfile.TarInfo("link")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return buffer.getvalue()


def release(*urls: str, sha256: str | None = None, mirrors: tuple[str, ...] = ()) -> Release:
    return Release(tuple(ReleaseFile(url, sha256, mirrors) for url in urls), homepage="")


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_a_release_is_fetched_checked_unpacked_and_readable(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    data = zipped({"CDR_Data/CDR.Corpus/CDR_TrainingSet.PubTator.txt": PUBTATOR})
    (folder / "CDR_Data.zip").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    told: list[str] = []

    done = download("bc5cdr", tmp_path / "out", release(f"{url}/CDR_Data.zip", sha256=digest), told.append)

    assert done.folder == tmp_path / "out" / "bc5cdr"
    assert [(f.sha256, f.num_bytes, f.verified, f.name) for f in done.files] == [(digest, len(data), True, "CDR_Data.zip")]
    assert find_reader("bc5cdr", done.folder)[0].format == "pubtator"
    assert "SHA-256 as expected" in told[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bc5cdr"]


def test_an_unknown_sum_is_trusted_once_and_said_aloud(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    (folder / "train.json").write_bytes(b"[]")
    digest = hashlib.sha256(b"[]").hexdigest()
    told: list[str] = []
    done = download("biorelex", tmp_path / "out", release(f"{url}/train.json"), told.append)
    assert [(f.sha256, f.verified) for f in done.files] == [(digest, False)]
    assert f"trusted on first use; pass --sha256 {digest} from now on" in told[0]
    assert (done.folder / "train.json").read_bytes() == b"[]"


def test_another_checksum_shows_both_sums_and_leaves_nothing(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    (folder / "x.json").write_bytes(b"[1]")
    with pytest.raises(SourceError) as caught:
        download("biorelex", tmp_path / "out", release(f"{url}/x.json", sha256="0" * 64))
    message = str(caught.value)
    received = hashlib.sha256(b"[1]").hexdigest()
    assert f"expected {'0' * 64}" in message
    assert f"received {received}" in message
    assert f"pass --sha256 {received}" in message
    assert left_behind(tmp_path / "out") == []


def test_not_found_names_every_address_tried(site: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = site
    wanted = release(f"{url}/a.zip", mirrors=(f"{url}/b.zip",))
    with pytest.raises(SourceError, match=r"(?s)a.zip could not be fetched; get it by hand.*/a.zip: .* 404 .*/b.zip: .* 404 "):
        download("bc5cdr", tmp_path / "out", wanted)
    assert left_behind(tmp_path / "out") == []


def test_a_mirror_stands_in(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    (folder / "b.json").write_bytes(b"[]")
    done = download("biorelex", tmp_path / "out", release(f"{url}/train.json", mirrors=(f"{url}/b.json",)))
    assert done.files[0].url == f"{url}/b.json"
    assert (done.folder / "train.json").exists()


def test_no_network_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no answer .*; is there a network, or a proxy"):
        download("bc5cdr", tmp_path / "out", release("http://127.0.0.1:1/a.zip"))
    with pytest.raises(SourceError, match="only http and https addresses are fetched"):
        download("bc5cdr", tmp_path / "out", release((tmp_path / "a.zip").as_uri()))
    assert left_behind(tmp_path / "out") == []


def test_a_connection_that_breaks_off_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    class Breaks(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with pytest.raises(SourceError, match="the connection broke off"):
        download("bc5cdr", tmp_path / "out", release(f"{serve(Breaks)}/a.txt"))
    assert left_behind(tmp_path / "out") == []


def test_a_disk_that_takes_no_more_leaves_nothing(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    (folder / "a.txt").write_bytes(b"x" * 100_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(SourceError, match=r"the disk is full .*; nothing was kept"):
            download("bc5cdr", tmp_path / "out", release(f"{url}/a.txt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left_behind(tmp_path / "out") == []


def test_a_finished_download_is_used_again_if_it_is_the_same(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    (folder / "train.json").write_bytes(b"[]")
    wanted = release(f"{url}/train.json")
    first = download("biorelex", tmp_path / "out", wanted)
    (folder / "train.json").unlink()
    assert download("biorelex", tmp_path / "out", wanted) == first
    with pytest.raises(SourceError, match=r"there already, but train.json had the SHA-256 .*, not 000"):
        download("biorelex", tmp_path / "out", with_checksums(wanted, ("0" * 64,)))
    with pytest.raises(SourceError, match="there already, but came from"):
        download("biorelex", tmp_path / "out", release(f"{url}/other.json"))
    (first.folder / ".download.json").write_text(json.dumps([]))
    with pytest.raises(SourceError, match="another number of files"):
        download("biorelex", tmp_path / "out", wanted)
    (first.folder / ".download.json").unlink()
    with pytest.raises(SourceError, match="was not made by a download; use it as the source, or remove it"):
        download("biorelex", tmp_path / "out", wanted)


def test_checksums_of_the_user_are_one_a_file() -> None:
    wanted = release("http://x/a.zip", "http://x/b.zip")
    assert with_checksums(wanted, ()) is wanted
    assert [f.sha256 for f in with_checksums(wanted, ("A" * 64, "b" * 64)).files] == ["a" * 64, "b" * 64]
    with pytest.raises(SourceError, match=r"1 checksums for 2 files \(a.zip, b.zip\)"):
        with_checksums(wanted, ("a" * 64,))
    with pytest.raises(SourceError, match="is no SHA-256: 64 hexadecimal digits"):
        with_checksums(wanted, ("a" * 64, "b" * 32))


@pytest.mark.parametrize(("pack", "name"), [(zipped, "c.zip"), (tarred, "c.tar.gz"), (tarred, "c.TGZ")])
def test_archives_are_unpacked_and_removed(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes], name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pack({"a b/c.txt": b"1", "d.txt": b"22"}))
    unpack(path, tmp_path / "out")
    assert {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == {
        "out/a b/c.txt": b"1",
        "out/d.txt": b"22",
    }


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"])
@pytest.mark.parametrize(("pack", "suffix"), [(zipped, ".zip"), (tarred, ".tar.gz")])
def test_a_member_outside_the_folder_is_refused(tmp_path: Path, name: str, pack: Callable[[dict[str, bytes]], bytes], suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(pack({name: b"1"}))
    with pytest.raises(SourceError, match="would lie outside the folder"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [path.name]


def test_links_bombs_doubles_and_wrecks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(tarred({"a": b"1"}, link="/etc/passwd"))
    with pytest.raises(SourceError, match="its member 'link' is a link or a device"):
        unpack(path, tmp_path / "1")
    path = tmp_path / "x.zip"
    path.write_bytes(zipped({"a": b"0" * 3_000_000}))
    with pytest.raises(SourceError, match="unpacks to more than the limit of 1,000,000 bytes"):
        unpack(path, tmp_path / "2", max_bytes=1_000_000)
    path.write_bytes(zipped({"a": b"0", "a/b": b"1"}))
    with pytest.raises(SourceError, match="two of its members are called"):
        unpack(path, tmp_path / "3")
    path.write_bytes(zipped({"a": b"0" * 1000})[:-20])
    with pytest.raises(SourceError, match="not a readable archive"):
        unpack(path, tmp_path / "4")
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceError, match="not a readable archive"):
        unpack(path, tmp_path / "5")
