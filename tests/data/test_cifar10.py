"""The ways to CIFAR-10 and all their errors."""

import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from awkward_files import _bomb as bomb
from PIL import Image
from random_images import random_images

from bigmodel_helpers.data import CLASSES, _cifar10, load_cifar10, synthetic


@pytest.fixture(autouse=True)
def clean_machine(tmp_path, monkeypatch):
    """A machine without data, caches or network settings."""
    monkeypatch.delenv("BIGMODEL_DATA", raising=False)
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(_cifar10, "URL", "http://127.0.0.1:9/nobody-listens")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def small_stand_in(monkeypatch):
    """Draw fewer images where a test only wants to know that it is the stand-in."""
    draw = synthetic.shapes
    monkeypatch.setattr(synthetic, "shapes", lambda n, seed: draw(n // 100, seed))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """An image-folder tree with 3 training images and 1 test image per class; returns its root."""
    root = tmp_path / "data"
    pixels = random_images(40, seed=5).permute(0, 2, 3, 1).numpy()
    names = [(s, c, i) for s, count in (("train", 3), ("test", 1)) for c in CLASSES for i in range(count)]
    for (split, name, index), image in zip(names, pixels, strict=True):
        folder = root / "cifar10" / split / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index:04}.png")
    monkeypatch.setenv("BIGMODEL_DATA", str(root))
    return root


def python2_pickle(value):
    """Return the opcodes with which Python 2 pickled the official archive."""
    match value:
        case bytes():
            return b"U" + bytes([len(value)]) + value
        case int():
            return b"J" + struct.pack("<i", value)
        case list():
            return b"](" + b"".join(map(python2_pickle, value)) + b"e"
        case dict():
            return b"}(" + b"".join(python2_pickle(item) for pair in value.items() for item in pair) + b"u"
    number = python2_pickle
    dtype = b"cnumpy\ndtype\n" + number(value.dtype.str[1:].encode()) + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + number(b"|") + b"NNN" + 2 * number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    array += number(0) + b"\x85" + number(b"b") + b"\x87R"
    shape = b"(" + b"".join(map(number, value.shape)) + b"t"
    raw = b"T" + struct.pack("<I", value.nbytes) + value.tobytes()
    return array + b"(" + number(1) + shape + dtype + b"\x89" + raw + b"tb"


def python2_file(value):
    return b"\x80\x02" + python2_pickle(value) + b"."


ROWS = 20


@pytest.fixture(scope="module")
def official():
    """The files of an archive in the official format with 20 images per file, and what they hold."""
    images = random_images(6 * ROWS, seed=9)
    labels = torch.arange(6 * ROWS) % 10
    meta = {b"num_cases_per_batch": ROWS, b"label_names": [n.encode() for n in CLASSES], b"num_vis": 3072}
    files = {"batches.meta": python2_file(meta), "readme.html": b"<html>"}
    for index, name in enumerate([*_cifar10.TRAIN_FILES, "test_batch"]):
        part = slice(index * ROWS, (index + 1) * ROWS)
        pixels = images[part].flatten(1).numpy()
        batch = {b"batch_label": b"a batch", b"labels": labels[part].tolist(), b"data": pixels}
        files[name] = python2_file(batch)
    return files, images, labels


def write_archive(folder, files):
    path = folder / "cifar-10-batches-py"
    path.mkdir(parents=True)
    for name, raw in files.items():
        (path / name).write_bytes(raw)
    return path


def pack(files):
    """Return the files as the bytes of a .tar.gz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, raw in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return packed.getvalue()


@pytest.fixture
def host(monkeypatch):
    """Return a function that starts a host, which answers as the given function says."""
    servers = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        monkeypatch.setattr(_cifar10, "URL", f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(handler, body, length=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def test_tree_is_read(tree):
    train, test = load_cifar10()
    assert (len(train), len(test)) == (30, 10)
    assert train.classes == CLASSES
    assert train.labels.tolist() == [*range(10)] * 3  # one of each class at a time
    for split, images in (("train", train), ("test", test)):
        for place, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
            path = tree / "cifar10" / split / CLASSES[label] / f"{place // 10:04}.png"
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(path)))
    assert train.source == test.source
    assert train.source.startswith("CIFAR-10, real images (30 for training, 10 for test)")
    assert "BIGMODEL_DATA" in train.source
    assert str(tree) not in train.source


def test_tree_ignores_hidden_files(tree):
    (tree / "cifar10" / "train" / ".DS_Store").write_bytes(b"")
    (tree / "cifar10" / "train" / "cat" / ".DS_Store").write_bytes(b"")
    assert len(load_cifar10()[0]) == 30


def test_decoded_images_come_from_the_cache(tree, tmp_path, monkeypatch):
    first = load_cifar10()
    kept = list((tmp_path / "cache").iterdir())
    assert [path.suffix for path in kept] == [".safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(_cifar10, "_pixels", None)  # decoding would raise
        again = load_cifar10()
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    kept[0].write_bytes(kept[0].read_bytes()[:-1])  # broken: decoded again, and mended
    assert torch.equal(load_cifar10()[0].images, first[0].images)
    monkeypatch.setattr(_cifar10, "_pixels", None)
    assert torch.equal(load_cifar10()[0].images, first[0].images)


def test_changed_image_is_decoded_again(tree):
    before = load_cifar10()[0].images[0]
    path = tree / "cifar10" / "train" / "airplane" / "0000.png"
    Image.new("RGB", (32, 32), (1, 2, 3)).save(path)
    os.utime(path, ns=(1, 1))
    after = load_cifar10()[0].images[0]
    assert not torch.equal(before, after)
    assert after[:, 7, 7].tolist() == [1, 2, 3]


def test_cache_folder_that_cannot_be_written_is_told(tree, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "file"))
    assert len(load_cifar10()[0]) == 30
    assert "set BIGMODEL_CACHE" in capsys.readouterr().out


def test_cache_folder_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("BIGMODEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for platform, parent in (("linux", "xdg"), ("darwin", "xdg"), ("win32", "local")):
        monkeypatch.setattr("sys.platform", platform)
        assert _cifar10.cache_folder() == tmp_path / parent / "bigmodel_helpers"
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _cifar10.cache_folder().parts[-2:] == (".cache", "bigmodel_helpers")


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_asked_for_data_that_is_missing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(
        FileNotFoundError, match=r"BIGMODEL_DATA=.*nowhere' is no folder .*correct or unset"
    ) as caught:
        load_cifar10()
    assert one_line(caught)
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"BIGMODEL_DATA=.* holds none of cifar10") as caught:
        load_cifar10()
    assert "add one or unset it" in one_line(caught)


def test_the_data_folder_is_the_one_above_the_tree(tree, monkeypatch):
    monkeypatch.setenv("BIGMODEL_DATA", str(tree / "cifar10"))
    with pytest.raises(FileNotFoundError, match=r"holds none of .*: set it to .*data$"):
        load_cifar10()


def no_home(monkeypatch):
    """A user without a home folder, as in a container with a user id that no file lists."""

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    for variable in ("HOME", "USERPROFILE", "BIGMODEL_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(_cifar10.Path, "home", nowhere)


def test_without_a_home_folder_data_are_read_where_they_are_named(tree, monkeypatch, capsys):
    no_home(monkeypatch)
    assert len(load_cifar10()[0]) == 30
    assert capsys.readouterr().out == (
        "CIFAR-10: cannot keep the decoded images (no home folder); set BIGMODEL_CACHE.\n"
    )
    monkeypatch.setenv("BIGMODEL_CACHE", str(tree.parent / "cache"))
    assert len(load_cifar10()[0]) == 30
    assert capsys.readouterr().out == ""


def test_without_a_home_folder_there_is_no_download(monkeypatch, small_stand_in, host, capsys):
    no_home(monkeypatch)
    host(lambda handler: pytest.fail("the host was asked"))
    assert load_cifar10()[0].source.startswith("stand-in: ")
    assert "no home folder for a download, set BIGMODEL_CACHE; using the stand-in" in capsys.readouterr().out


def test_a_cache_folder_in_the_home_folder(monkeypatch, tmp_path):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("BIGMODEL_CACHE", "~/cache")
    assert _cifar10.cache_folder() == tmp_path / "cache"


def refusing(where):
    """Return a function that raises as the system does where the rights are missing."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(where))

    return refuse


def test_a_cache_that_may_not_be_looked_into_is_passed(small_stand_in, monkeypatch, tmp_path):
    monkeypatch.setattr(_cifar10.Path, "exists", refusing(tmp_path))
    assert load_cifar10(download=False)[0].source.startswith("stand-in: ")


def test_a_named_cache_that_takes_no_download_is_an_error(monkeypatch, tmp_path, host):
    host(lambda handler: pytest.fail("the host was asked"))
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        OSError, match=r"BIGMODEL_CACHE: .*file cannot be written \(.*\): change its"
    ) as caught:
        load_cifar10()
    assert one_line(caught)


def test_the_usual_cache_that_takes_no_download_is_told(monkeypatch, tmp_path, host, small_stand_in, capsys):
    host(lambda handler: pytest.fail("the host was asked"))
    monkeypatch.delenv("BIGMODEL_CACHE")
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    monkeypatch.setattr(_cifar10.Path, "touch", refusing(tmp_path))
    assert load_cifar10()[0].source.startswith("stand-in: ")
    told = capsys.readouterr().out
    assert "no place for a download, " in told
    assert "cannot be written (Permission denied), set BIGMODEL_CACHE; using the stand-in" in told


@pytest.mark.parametrize("kind", ["tree", "folder", "tar"])
def test_what_may_not_be_read_is_not_called_damaged(tree, official, tmp_path, monkeypatch, kind):
    if kind != "tree":
        monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
        (tree / "cifar10").rename(tree / "elsewhere")
        if kind == "folder":
            write_archive(tmp_path, official[0])
        else:
            (tmp_path / "cifar-10-python.tar.gz").write_bytes(pack(official[0]))
    where = "tarfile.open" if kind == "tar" else "pathlib.Path.open"
    monkeypatch.setattr(where, refusing(tmp_path / "secret"))
    with pytest.raises(PermissionError, match=r"secret may not be read: change its rights") as caught:
        load_cifar10()
    assert one_line(caught)


def test_a_class_folder_that_may_not_be_read_is_named(tree, monkeypatch):
    iterdir = _cifar10.Path.iterdir

    def some(path):
        return refusing(path)() if path.name == "cat" else iterdir(path)

    monkeypatch.setattr(_cifar10.Path, "iterdir", some)
    with pytest.raises(PermissionError, match=r"cat may not be read: change its rights"):
        load_cifar10()


def test_missing_split_is_an_error(tree):
    (tree / "cifar10" / "test").rename(tree / "cifar10" / "tests")
    with pytest.raises(FileNotFoundError, match=r"test is missing: put the images there"):
        load_cifar10()


def test_missing_unknown_and_empty_classes_are_errors(tree):
    folder = tree / "cifar10" / "test"
    (folder / "cat").rename(tree / "cat")
    with pytest.raises(ValueError, match="test lacks the class folder cat"):
        load_cifar10()
    (folder / "cat").mkdir()
    with pytest.raises(ValueError, match=r"cat holds no image"):
        load_cifar10()
    (folder / "zebra").mkdir()
    with pytest.raises(ValueError, match=r"zebra is no class of CIFAR-10"):
        load_cifar10()


def test_truncated_and_foreign_image_files_are_named(tree):
    path = tree / "cifar10" / "train" / "dog" / "0001.jpg"
    Image.fromarray(random_images(1)[0].permute(1, 2, 0).numpy()).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(ValueError, match=r"0001\.jpg is no readable image \(.*truncated") as caught:
        load_cifar10()
    assert "copy it again or delete it" in one_line(caught)
    path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"0001\.jpg is no readable image"):
        load_cifar10()


def test_a_picture_that_is_a_bomb_is_named(tree):
    """It is refused by its header: an attack is never decoded."""
    path = tree / "cifar10" / "train" / "dog" / "0001.png"
    path.write_bytes(bomb(60_000))
    with pytest.raises(ValueError, match=r"0001\.png is no readable image \(.*decompression bomb") as caught:
        load_cifar10()
    assert "copy it again or delete it" in one_line(caught)
    path.write_bytes(bomb(9_000))
    with pytest.raises(ValueError, match=r"0001\.png is 1 9000x9000, not RGB 32x32"):
        load_cifar10()


def test_no_program_is_started_for_a_picture(tree, monkeypatch):
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    path = tree / "cifar10" / "train" / "dog" / "0001.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n{} loop\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it was started"))
    with pytest.raises(ValueError, match=r"0001\.jpg is no readable image"):
        load_cifar10()


def test_folders_pipes_and_links_to_nothing_are_named(tree):
    folder = tree / "cifar10" / "train" / "dog"
    (folder / "more").mkdir()
    with pytest.raises(ValueError, match=r"more is a folder or device, not an image: move it elsewhere"):
        load_cifar10()
    (folder / "more").rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
        with pytest.raises(ValueError, match=r"pipe\.png is a folder or device"):
            load_cifar10()
        (folder / "pipe.png").unlink()
        (folder / "link.png").symlink_to(folder / "nothing")
        with pytest.raises(FileNotFoundError, match=r"link\.png is a link to nothing: delete it"):
            load_cifar10()


@pytest.mark.parametrize("packed", [False, True])
def test_the_archive_is_not_trusted_about_its_size(official, packed, tmp_path, monkeypatch):
    if packed:
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(pack(official[0]))
    else:
        write_archive(tmp_path, official[0])
    monkeypatch.setattr(_cifar10, "LARGEST", 10_000)
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"data_batch_1 holds more than 10,000 bytes: get the archive again"):
        load_cifar10()


def test_links_in_the_archive_are_not_followed(official, tmp_path, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in official[0]:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "/data/ann/secret"
            archive.addfile(member)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(packed.getvalue())
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"data_batch_1 is missing: delete cifar-10-python\.tar\.gz"):
        load_cifar10()


@pytest.mark.parametrize(("mode", "size"), [("RGB", (32, 31)), ("RGB", (64, 64)), ("L", (32, 32))])
def test_images_of_the_wrong_shape_are_named(tree, mode, size):
    Image.new(mode, size).save(tree / "cifar10" / "train" / "dog" / "0001.png")
    with pytest.raises(ValueError, match=rf"0001\.png is {mode} {size[0]}x{size[1]}, not RGB 32x32"):
        load_cifar10()


@pytest.mark.parametrize("packed", [False, True])
def test_official_archive_is_read(official, packed, tmp_path, monkeypatch):
    files, images, labels = official
    if packed:
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(pack(files))
    else:
        write_archive(tmp_path, files)
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    train, test = load_cifar10()
    assert torch.equal(torch.cat([train.images, test.images]), images)
    assert torch.equal(torch.cat([train.labels, test.labels]), labels)
    assert (len(train), len(test)) == (100, 20)
    assert train.source.endswith("the official archive in BIGMODEL_DATA")


@pytest.mark.parametrize("folder", ["torch/datasets", "work/data", "cache"])
def test_archive_of_torchvision_is_found(official, folder, tmp_path):
    write_archive(tmp_path / folder, official[0])
    assert load_cifar10(download=False)[1].source.endswith("the official archive in a cache folder")


def test_missing_file_of_the_archive_is_named(official, tmp_path, monkeypatch):
    path = write_archive(tmp_path, official[0])
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    (path / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3 is missing: delete cifar-10-batches-py"):
        load_cifar10()


def test_truncated_tar_is_named(official, tmp_path, monkeypatch):
    path = tmp_path / "cifar-10-python.tar.gz"
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    whole = pack(official[0])
    for raw in (whole[: len(whole) // 2], b"", b"<html>not here</html>"):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is truncated or no \.tar\.gz"):
            load_cifar10()


def labels_of(count):
    return [0] * count


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (python2_file({b"labels": [0]})[:-3], "truncated or foreign"),
        (b"", "truncated or foreign"),
        (python2_file([1, 2]), "holds a list, not a dictionary"),
        (python2_file({b"labels": labels_of(ROWS)}), "does not hold 20 images"),
        (
            python2_file({b"data": np.zeros((19, 3072), np.uint8), b"labels": labels_of(19)}),
            "not hold 20 images",
        ),
        (
            python2_file({b"data": np.zeros((20, 3071), np.uint8), b"labels": labels_of(20)}),
            "not hold 20 images",
        ),
        (
            python2_file({b"data": np.zeros((20, 3072), np.uint8), b"labels": labels_of(19)}),
            "not hold 20 labels",
        ),
        (python2_file({b"data": np.zeros((20, 3072), np.uint8), b"labels": [10] * 20}), "not hold 20 labels"),
        (
            python2_file({b"data": np.zeros((20, 3072), np.int8), b"labels": labels_of(20)}),
            "numbers of type b'i1'",
        ),
    ],
)
def test_damaged_batch_is_named(official, raw, message, tmp_path, monkeypatch):
    write_archive(tmp_path, official[0] | {"data_batch_2": raw})
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=rf"data_batch_2 .*{message}") as caught:
        load_cifar10()
    assert "get the archive again" in one_line(caught)


def test_archive_with_other_classes_is_refused(official, tmp_path, monkeypatch):
    meta = python2_file({b"num_cases_per_batch": ROWS, b"label_names": [b"apple"] * 10})
    write_archive(tmp_path, official[0] | {"batches.meta": meta})
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"batches\.meta does not name the 10 classes"):
        load_cifar10()


def test_malicious_pickle_is_refused(official, tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "broken-in"),)

    write_archive(tmp_path, official[0] | {"test_batch": pickle.dumps({b"data": Evil()})})
    monkeypatch.setenv("BIGMODEL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"test_batch .*mkdir, which is refused"):
        load_cifar10()
    assert not (tmp_path / "broken-in").exists()


def test_download_is_checked_kept_and_told(official, host, tmp_path, monkeypatch, capsys):
    body = pack(official[0])
    host(lambda handler: send(handler, body))
    monkeypatch.setattr(_cifar10, "SHA256", hashlib.sha256(body).hexdigest())
    train, _ = load_cifar10()
    assert torch.equal(train.images, official[1][:100])
    assert train.source.endswith("the official archive from its host")
    assert "100%" in capsys.readouterr().err  # a progress bar
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar-10-python.tar.gz"]
    monkeypatch.setattr(_cifar10, "URL", "http://127.0.0.1:9/")
    assert load_cifar10()[0].source.endswith("in a cache folder")  # not fetched twice


def test_wrong_checksum_is_an_error_and_leaves_nothing(host, tmp_path):
    host(lambda handler: send(handler, b"another file"))
    with pytest.raises(ValueError, match="sent a file with SHA-256") as caught:
        load_cifar10()
    assert "try again" in one_line(caught)
    assert list((tmp_path / "cache").iterdir()) == []


def fall_back(capsys):
    """Load, check that it is the stand-in and that this is told in one line; return the line."""
    train, test = load_cifar10()
    assert train.source.startswith("stand-in: ")
    assert train.source == test.source
    assert train.classes == synthetic.CLASSES
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert told.startswith("CIFAR-10: download failed (")
    assert "using the stand-in. Set BIGMODEL_DATA" in told
    return told


def test_host_that_sends_an_error(host, small_stand_in, capsys, tmp_path):
    host(lambda handler: handler.send_error(503, "busy"))
    assert "503" in fall_back(capsys)
    assert list((tmp_path / "cache").iterdir()) == []


def test_host_that_stops_in_the_middle(host, small_stand_in, capsys, tmp_path):
    host(lambda handler: send(handler, b"x" * 100, length=1000))
    assert "only 100 of 1,000 bytes came" in fall_back(capsys)
    assert list((tmp_path / "cache").iterdir()) == []


def test_host_that_says_nothing(host, small_stand_in, capsys, monkeypatch):
    monkeypatch.setattr(_cifar10, "SILENCE_S", 0.2)
    done = threading.Event()
    host(lambda handler: done.wait(10))
    start = time.monotonic()
    assert "timed out" in fall_back(capsys)
    assert time.monotonic() - start < 5
    done.set()


def test_host_that_is_too_slow(host, small_stand_in, capsys, monkeypatch):
    monkeypatch.setattr(_cifar10, "SILENCE_S", 0.2)

    def trickle(handler):
        send(handler, b"x", length=170_000_000)
        for _ in range(100):
            time.sleep(0.05)
            try:
                handler.wfile.write(b"x")
            except OSError:
                return  # the reader has left

    host(trickle)
    assert "too slow" in fall_back(capsys)


def test_no_host_and_the_whole_stand_in(capsys):
    train, test = load_cifar10()
    assert (len(train), len(test)) == (10_000, 2_000)
    assert "using the stand-in" in capsys.readouterr().out


def test_no_download_wanted(small_stand_in, capsys, host):
    host(lambda handler: pytest.fail("the host was asked"))
    assert load_cifar10(download=False)[0].source.startswith("stand-in: ")
    assert "no download was wanted" in capsys.readouterr().out
