"""ImageNet: which classes are chosen, and its two forms, whole, in part and damaged."""

import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from cljax.data import imagenet, sources
from cljax.data.imagenet import all_classes, choose, load_imagenet
from cljax.data.imagenet_files import ARCHIVES, DEVKIT
from cljax.data.streams import make_stream
from cljax.errors import UserError
from cljax.settings import DataSettings
from tests.helpers.imagenet import add, make_folders, pack, prepare, write_devkit

NAMES = sources.IMAGENET
FIRST = choose("imagenet50").used[0]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folders(tmp_path):
    """Class folders of imagenet50: two training images and a validation image of each class."""
    return make_folders(tmp_path / "folders")


@pytest.fixture
def archives(tmp_path, folders):
    """The same images as archives."""
    return pack(folders, tmp_path / "archives")


def user_error(root, name="imagenet50"):
    """The one line that a directory gives."""
    with pytest.raises(UserError) as error:
        for images, _ in load_imagenet(name, str(root))[:2]:
            np.asarray(images)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def test_classes_are_those_of_the_original(goldens):
    flat = goldens("class_orders")["split/ImageNet_10_10_5/flat"]
    chosen = choose("imagenet50")
    assert chosen.names == all_classes()
    assert chosen.used == tuple(sorted(all_classes()[k] for k in flat))


def test_classes_of_the_subset_are_those_that_lucirs_authors_draw():
    drawn = np.random.RandomState(1993).choice(all_classes(), 100, replace=False)
    assert choose("imagenet_subset") == ((*sorted(drawn),), (*sorted(drawn),))


def test_all_classes():
    names = all_classes()
    assert len({*names}) == 1000 and [*names] == sorted(names)
    assert names[0] == "n01440764" and names[999] == "n15075141"
    assert choose("imagenet1000") == (names, names)


def test_class_folders(folders):
    (train, train_labels), (test, test_labels), names = load_imagenet("imagenet50", str(folders))
    assert names == all_classes() and len(train) == 100 and len(test) == 50
    chosen = [names.index(name) for name in choose("imagenet50").used]
    assert train_labels.tolist() == np.repeat(chosen, 2).tolist()
    assert test_labels.tolist() == chosen and test_labels.dtype == np.int32
    for number in (0, 1, 99):
        name = names[train_labels[number]]
        path = folders / "train" / name / f"{name}_{number % 2}.JPEG"
        expected = np.asarray(Image.open(path))
        height, width, _ = expected.shape
        assert train.sizes[number].tolist() == [height, width]
        np.testing.assert_array_equal(train[np.array([number])][0, :height, :width], expected)


def test_archives_give_what_folders_do(folders, archives):
    before = {path.name for path in archives.iterdir()}
    one, other = (load_imagenet("imagenet50", str(root)) for root in (folders, archives))
    for (images, labels), (found, found_labels) in zip(one[:2], other[:2], strict=True):
        np.testing.assert_array_equal(labels, found_labels)
        np.testing.assert_array_equal(images.sizes, found.sizes)
        np.testing.assert_array_equal(np.asarray(images), np.asarray(found))
        np.testing.assert_array_equal(images.fingerprint(), found.fingerprint())
    assert one[2] == other[2] and before == {path.name for path in archives.iterdir()}


def test_a_prepared_set_gives_what_folders_do(tmp_path, folders):
    root = prepare(folders, tmp_path / "tfds")
    one = load_imagenet("imagenet50", str(folders))
    for _ in range(2):  # the second time the index is cached
        other = load_imagenet("imagenet50", str(root))
        for (images, labels), (found, found_labels) in zip(one[:2], other[:2], strict=True):
            np.testing.assert_array_equal(labels, found_labels)
            np.testing.assert_array_equal(images.sizes, found.sizes)
            np.testing.assert_array_equal(images.fingerprint(), found.fingerprint())
            rows = np.array([49, 3, 0])
            np.testing.assert_array_equal(images[rows], found[rows])
            np.testing.assert_array_equal(images[rows], found.take(rows)[np.arange(3)])


def test_wrong_prepared_sets_are_the_users_mistake(tmp_path, folders):
    Image.new("F", (4, 4)).save(folders / "val" / FIRST / "x.tiff")
    message = user_error(prepare(folders, tmp_path / "one"))
    assert f"imagenet2012/5.1.0/{FIRST}/x.tiff: cannot read it as an image" in message
    shutil.rmtree(folders / "val" / FIRST)
    root = prepare(folders, tmp_path / "two")
    assert user_error(root).endswith(
        f"imagenet2012/5.1.0: no images of the class {FIRST}; add them"
    )
    for path in (root / "imagenet2012" / "5.1.0").glob("*train*"):
        path.write_bytes(b"x")
    assert f"cannot read {root}/imagenet2012/5.1.0" in user_error(root)
    shutil.rmtree(root / "imagenet2012" / "5.1.0")
    assert f"config.data.dir={root}: cannot read imagenet2012: " in user_error(root)


def test_a_folder_and_an_archive_mix(folders, archives):
    (folders / "val").rename(archives / "val")
    (archives / DEVKIT).unlink()
    (train, _), (test, _), _ = load_imagenet("imagenet50", str(archives))
    assert len(train) == 100 and len(test) == 50


def test_the_index_is_read_once(folders, archives, monkeypatch):
    for root in (folders, archives):
        found = load_imagenet("imagenet50", str(root))
        with monkeypatch.context() as patch:
            patch.setattr(imagenet, "read_sizes", None)
            again = load_imagenet("imagenet50", str(root))
        for split in (0, 1):
            rows = np.array([49, 0])
            np.testing.assert_array_equal(found[split][0][rows], again[split][0][rows])
            np.testing.assert_array_equal(found[split][1], again[split][1])
    path = folders / "train" / FIRST / f"{FIRST}_0.JPEG"
    Image.new("RGB", (50, 60)).save(path)
    assert load_imagenet("imagenet50", str(folders))[0][0].sizes[0].tolist() == [60, 50]


def test_a_damaged_cache_is_written_again(tmp_path, folders):
    right = load_imagenet("imagenet50", str(folders))
    (path,) = (tmp_path / "cache" / "cljax").glob("*.npz")
    with np.load(path) as archive:
        kept = dict(archive)
    for change in (
        {"train_sizes": kept["train_sizes"][1:]},
        {"train_sizes": kept["train_sizes"].ravel()},
        {"val_labels": kept["val_labels"].astype(float)},
        {"train_names": kept["train_names"].astype(str)},
        {"stamp": np.array("another")},
    ):
        np.savez(path, **kept | change)
        found = load_imagenet("imagenet50", str(folders))
        np.testing.assert_array_equal(found[0][0].sizes, right[0][0].sizes)
        np.testing.assert_array_equal(found[1][1], right[1][1])


def test_a_dataset_has_the_published_moments_and_the_shape_that_networks_see(folders):
    settings = DataSettings(name="imagenet50", dir=str(folders), image_size=224, per_class=1)
    dataset = sources.load(settings)
    assert dataset.image_shape == (224, 224, 3) and dataset.num_classes == 1000
    assert dataset.mean == (0.485, 0.456, 0.406) and dataset.std == (0.229, 0.224, 0.225)
    assert len(dataset.train_images) == 50 == len(dataset.train_labels)
    kept = choose("imagenet50").used[7]
    np.testing.assert_array_equal(
        dataset.train_images.take(np.array([7])).sizes[0],
        np.asarray(Image.open(folders / "train" / kept / f"{kept}_0.JPEG")).shape[:2],
    )
    stream = make_stream(
        dataset, seed=0, order_seed=0, num_tasks=5, order="numpy:1993", task_sizes=(10,) * 5
    )
    assert stream.train_counts.tolist() == [10] * 5 and stream.class_order[:3].tolist() == [
        54,
        7,
        894,
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_class_is_named(tmp_path, name):
    used = choose(name).used
    make_folders(tmp_path / "data", name, per_class=1)
    shutil.rmtree(tmp_path / "data" / "train" / used[3])
    place = tmp_path / "data" / "train"
    assert user_error(tmp_path / "data", name) == (
        f"{place}: no images of the class {used[3]}; add them"
    )


def test_missing_classes_of_archives_are_named(folders, archives):
    used = choose("imagenet50").used
    for folder in (folders / "train").iterdir():
        if folder.name not in used[:2]:
            shutil.rmtree(folder)
    shutil.rmtree(archives)
    pack(folders, archives)
    named = f"no images of the class {', '.join(used[2:7])} and 43 more; add them"
    assert user_error(archives) == f"{archives / ARCHIVES['train']}: {named}"
    with tarfile.open(archives / ARCHIVES["train"], "w") as outer:
        for name in used:
            add(outer, f"{name}.tar", bytes(10240))  # an archive without files
    assert f"no images of the class {used[0]}, " in user_error(archives)


def test_what_is_of_no_use_is_skipped(folders, archives):
    (folders / "train" / ".DS_Store").touch()
    (folders / "train" / FIRST / "._hidden.JPEG").touch()
    (folders / "train" / "n00000000").mkdir()  # not one of the classes
    (folders / "val" / "labels.txt").touch()
    with tarfile.open(archives / ARCHIVES["val"], "a") as archive:
        add(archive, "._ILSVRC2012_val_00000001.JPEG", b"x")
    for root in (folders, archives):
        (train, _), (test, _), _ = load_imagenet("imagenet50", str(root))
        assert len(train) == 100 and len(test) == 50


def empty_class(root):
    for image in (root / "train" / FIRST).iterdir():
        image.unlink()


def folder_in_class(root):
    (root / "train" / FIRST / "more").mkdir()


def symlink_loop(root):
    (root / "train" / FIRST / "loop.JPEG").symlink_to("loop.JPEG")


def symlink_loop_of_class(root):
    shutil.rmtree(root / "train" / FIRST)
    (root / "train" / FIRST).symlink_to(FIRST)


def text_image(root):
    (root / "train" / FIRST / "note.jpg").write_text("a cat")


WRONG_FOLDERS = {
    "an empty class": (empty_class, f"train/{FIRST} is empty; each class needs an image"),
    "a folder in a class": (folder_in_class, f"train/{FIRST}/more is a folder; put images"),
    "a symlink loop": (symlink_loop, f"train/{FIRST}/loop.JPEG: Too many levels"),
    "a class in a loop": (symlink_loop_of_class, f"train/{FIRST}: Too many levels"),
    "a text file": (text_image, f"train/{FIRST}/note.jpg: cannot read it as an image"),
    "no train": (lambda root: shutil.rmtree(root / "train"), "it has no folder train"),
    "no val": (lambda root: shutil.rmtree(root / "val"), "it has no folder val"),
}


@pytest.mark.parametrize("kind", WRONG_FOLDERS)
def test_wrong_folders_are_the_users_mistake(folders, kind):
    make, reason = WRONG_FOLDERS[kind]
    make(folders)
    assert reason in user_error(folders)


def test_an_unreadable_folder_is_named(folders):
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    (folders / "train" / FIRST).chmod(0)
    assert f"cannot read {folders}/train/{FIRST}: Permission denied" in user_error(folders)


def cut(path, size=700):
    os.truncate(path, size)


def no_answers(root):
    with tarfile.open(root / DEVKIT, "w:gz") as kit:
        add(kit, "readme.txt", b"x")


def compressed(root):
    with tarfile.open(root / ARCHIVES["train"], "w:gz") as archive:
        add(archive, "x", b"x")


def other_images(root):
    with tarfile.open(root / ARCHIVES["val"], "w") as archive:
        add(archive, "cat.JPEG", b"x")


def bad_image(root):
    with tarfile.open(root / ARCHIVES["val"], "a") as archive:
        add(archive, "ILSVRC2012_val_00000001.JPEG", b"a cat")


WRONG_ARCHIVES = {
    "half an archive": (lambda r: cut(r / ARCHIVES["train"], 5000), "as the images of a class"),
    "a compressed archive": (compressed, "as ImageNet's training images: "),
    "no kit": (lambda r: (r / DEVKIT).unlink(), f"its classes are in {DEVKIT}, which is not"),
    "another kit": (no_answers, "it does not hold the file ILSVRC2012_devkit_t12/data/meta.mat"),
    "half a kit": (lambda r: cut(r / DEVKIT), "as ImageNet's development kit: "),
    "a short kit": (lambda r: write_devkit(r, [FIRST]), "NUMBER up to 1"),
    "another validation set": (other_images, "it holds 'cat.JPEG'; expected ILSVRC2012_val_"),
    "a bad image": (bad_image, "ILSVRC2012_val_00000001.JPEG: cannot read it as an image"),
}


@pytest.mark.parametrize("kind", WRONG_ARCHIVES)
def test_wrong_archives_are_the_users_mistake(archives, kind):
    make, reason = WRONG_ARCHIVES[kind]
    make(archives)
    message = user_error(archives)
    assert reason in message and str(archives) in message


def test_settings_that_are_wrong(tmp_path, folders):
    with pytest.raises(UserError, match=r"config.data.dir is empty, and imagenet50 needs a dir"):
        load_imagenet("imagenet50", "")
    with pytest.raises(UserError, match=r"config.data.dir=/nowhere: no such directory"):
        load_imagenet("imagenet50", "/nowhere")
    with pytest.raises(UserError, match=r"config.data.image_size=0: the images of imagenet50 have"):
        sources.load(DataSettings(name="imagenet50", dir=str(folders)))
    assert "train/CLASS/IMAGE and val/CLASS/IMAGE, CLASS such as n01440764" in user_error(tmp_path)
