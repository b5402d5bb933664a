import pytest
import torch

from co_probe.data.augment import centre, pad_images, random_view


def literal(store, view, b, c, i, j):
    return store[view.index[b], c, view.rows[b, i], view.columns[b, j]]


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_take_and_put_against_a_loop_over_pixels(padding, flip):
    rng = torch.Generator().manual_seed(0)
    images = torch.rand((9, 2, 5, 4), generator=rng)
    store = pad_images(images, padding)
    index = torch.tensor([7, 0, 3, 8])
    view = random_view(index, (5, 4), padding, flip, rng)
    batch = view.take(store)
    for b in range(4):
        for c in range(2):
            for i in range(5):
                for j in range(4):
                    assert batch[b, c, i, j] == literal(store, view, b, c, i, j)

    expected = store.clone()
    values = torch.rand(batch.shape, generator=rng)
    for b in range(4):
        for i in range(5):
            for j in range(4):
                expected[index[b], :, view.rows[b, i], view.columns[b, j]] = values[b, :, i, j]
    view.put(store, values)
    assert torch.equal(store, expected)
    assert torch.equal(view.take(store), values)


def test_views_are_crops_and_mirror_images():
    rng = torch.Generator().manual_seed(1)
    images = torch.rand((200, 1, 6, 6), generator=rng)
    view = random_view(torch.arange(200), (6, 6), 2, True, rng)
    batch, padded = view.take(pad_images(images, 2)), pad_images(images, 2)
    flipped, offsets = 0, set()
    for b in range(200):
        top = int(view.rows[b, 0])
        left = int(view.columns[b].min())
        crop = padded[b, :, top : top + 6, left : left + 6]
        mirrored = bool(view.columns[b, 0] > view.columns[b, -1])
        assert torch.equal(batch[b], crop.flip(2) if mirrored else crop)
        flipped += mirrored
        offsets.add((top, left))
    assert 60 < flipped < 140
    assert offsets == {(i, j) for i in range(5) for j in range(5)}


def test_centre_undoes_padding():
    images = torch.rand(3, 2, 5, 4)
    for padding in (0, 2):
        assert torch.equal(centre(pad_images(images, padding), padding), images)
