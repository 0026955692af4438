"""The decoder: no look-ahead, no padding, cached equals whole, captions keep to their picture."""

import numpy as np
import pytest
import torch
from torch import Tensor

from captioning.training.packing import Packing, pack_captions, ranges
from model import CaptionModel, DecoderState, memory_encoder, sinusoids
from tests.helpers.models import FEATURES, PATCHES, VOCABULARY, make_model


def features_of(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, PATCHES, FEATURES, generator=torch.Generator().manual_seed(seed))


def pack(captions: list[list[int]], per_picture: int) -> tuple[Tensor, Tensor, Packing]:
    """Ids, positions and packing of captions that follow one another, `per_picture` a picture."""
    longest = max(map(len, captions))
    ids = torch.tensor([token for caption in captions for token in caption])
    positions = torch.tensor([i for caption in captions for i in range(len(caption))])
    rows = torch.tensor([row for row, caption in enumerate(captions) for _ in caption])
    assert len(captions) % per_picture == 0
    return ids, positions, Packing(len(captions), longest, rows * longest + positions)


def logits_of(model: CaptionModel, features: Tensor, caption: list[int]) -> Tensor:
    ids, positions, packing = pack([caption], 1)
    return model(features, ids, positions, packing)


def test_shapes() -> None:
    model = make_model()
    ids, positions, packing = pack([[1, 5, 6], [1, 7]], 1)
    assert model.projection(features_of(2)).shape == (2, PATCHES, 12)
    keys, values = model.encode_memory(features_of(2))[0]
    assert keys.shape == values.shape == (2, 4, PATCHES, 4)
    assert model(features_of(2), ids, positions, packing).shape == (5, VOCABULARY)


def test_no_token_sees_a_later_one() -> None:
    model = make_model()
    embedded: list[Tensor] = []

    def keep(module: object, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    model.decoder.embedding.register_forward_hook(keep)
    logits = logits_of(model, features_of(1), [1, 5, 6, 7, 8])
    for position in range(5):
        torch.autograd.backward(logits[position].sum(), retain_graph=True)
        gradient = embedded[0].grad
        assert gradient is not None
        assert gradient[: position + 1].abs().sum(1).min() > 0
        assert gradient[position + 1 :].abs().max().item() == 0 if position < 4 else True
        embedded[0].grad = None


def test_a_batch_of_unequal_captions_gives_each_its_own_logits() -> None:
    model = make_model()
    features = features_of(2)
    captions = [[1, 5, 6, 7, 8, 9], [1, 4], [1, 9, 9], [1, 7, 8, 9]]  # two of each picture
    ids, positions, packing = pack(captions, 2)
    together = model(features, ids, positions, packing).split([len(c) for c in captions])
    for number, caption in enumerate(captions):
        alone = logits_of(model, features[number // 2 :][:1], caption)
        torch.testing.assert_close(together[number], alone, rtol=1e-5, atol=1e-5)


def test_empty_rows_change_nothing() -> None:
    model = make_model()
    features = features_of(2)
    # The second picture has one caption, the first has two; its second row stays empty.
    ids = torch.tensor([1, 5, 1, 6, 1, 7])
    positions = torch.tensor([0, 1, 0, 1, 0, 1])
    slots = torch.tensor([0, 1, 2, 3, 4, 5])
    logits = model(features, ids, positions, Packing(4, 2, slots))
    torch.testing.assert_close(logits[4:], logits_of(model, features[1:], [1, 7]))


def test_captions_keep_to_their_picture() -> None:
    model = make_model()
    features = features_of(2).requires_grad_()
    captions = [[1, 5, 6], [1, 7], [1, 8], [1, 9, 4]]
    ids, positions, packing = pack(captions, 2)
    logits = model(features, ids, positions, packing)
    logits[:5].sum().backward()  # the first picture's two captions
    gradient = features.grad
    assert gradient is not None
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().max() == 0


def test_cached_steps_equal_the_whole_caption() -> None:
    model = make_model().eval()
    features = features_of(3)
    captions = torch.randint(4, VOCABULARY, (3, 2, 7), generator=torch.Generator().manual_seed(0))
    state = DecoderState(model.decoder, model.encode_memory(features))
    state.reorder(torch.arange(3), torch.zeros(3, 2, dtype=torch.long))
    steps = torch.stack([state.step(captions[:, :, i]) for i in range(7)], dim=2)
    for picture in range(3):
        for row in range(2):
            whole = logits_of(model, features[picture:][:1], captions[picture, row].tolist())
            torch.testing.assert_close(steps[picture, row], whole, rtol=1e-4, atol=1e-5)


def test_reordered_rows_go_on_from_where_they_came() -> None:
    model = make_model().eval()
    features = features_of(3)
    state = DecoderState(model.decoder, model.encode_memory(features))
    state.step(torch.tensor([[1], [1], [1]]))
    state.reorder(torch.tensor([0, 1, 2]), torch.zeros(3, 2, dtype=torch.long))
    state.step(torch.tensor([[5, 6], [7, 8], [9, 10]]))
    # The second picture leaves; the first changes its rows, the third doubles its second one.
    state.reorder(torch.tensor([0, 2]), torch.tensor([[1, 0], [1, 1]]))
    logits = state.step(torch.tensor([[11, 12], [13, 14]]))
    expected = {
        (0, 0): (0, [1, 6, 11]),
        (0, 1): (0, [1, 5, 12]),
        (1, 0): (2, [1, 10, 13]),
        (1, 1): (2, [1, 10, 14]),
    }
    for (picture, row), (source, caption) in expected.items():
        whole = logits_of(model, features[source:][:1], caption)[-1]
        torch.testing.assert_close(logits[picture, row], whole, rtol=1e-4, atol=1e-5)


def test_attention_weights_are_those_that_were_used() -> None:
    model = make_model().eval()
    features = features_of(2)
    ids, positions, packing = pack([[1, 5, 6], [1, 7, 8]], 1)
    weights: list[Tensor] = []
    model.decoder(ids, positions, packing, model.encode_memory(features), weights=weights)
    assert [tuple(layer.shape) for layer in weights] == [(2, 4, 3, PATCHES)] * 2
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 4, 3))
    # One layer by hand, second picture, third token, from the layer's own inputs.
    inputs: list[Tensor] = []
    attention = model.decoder.blocks[0].cross_attention
    attention.query.register_forward_hook(lambda module, args, output: inputs.append(output))
    model.decoder(ids, positions, packing, model.encode_memory(features))
    query = inputs[0][5].view(4, 4)
    keys = model.encode_memory(features)[0].keys[1]
    by_hand = torch.einsum("hd,hpd->hp", query, keys).div(2.0).softmax(-1)
    torch.testing.assert_close(weights[0][1, :, 2], by_hand, rtol=1e-5, atol=1e-6)


def test_keys_and_values_of_a_picture_are_computed_once() -> None:
    model = make_model().eval()
    calls: list[tuple[int, ...]] = []
    for block in model.decoder.blocks:
        block.cross_attention.key_value.register_forward_hook(
            lambda module, args, output: calls.append(tuple(output.shape))
        )
    state = DecoderState(model.decoder, model.encode_memory(features_of(2)))
    state.reorder(torch.arange(2), torch.zeros(2, 5, dtype=torch.long))
    for _ in range(4):
        state.step(torch.ones(2, 5, dtype=torch.long))
    assert calls == [(2, PATCHES, 32)] * 2


def test_embeddings_are_tied() -> None:
    model = make_model()
    assert model.decoder.logits(torch.eye(16)).T.equal(model.decoder.embedding.weight)


def test_sinusoids_are_those_of_the_paper() -> None:
    table = sinusoids(30, 8)
    position, pair = 17, 2
    angle = torch.tensor(position / 10_000 ** (2 * pair / 8))
    torch.testing.assert_close(table[position, 2 * pair], angle.sin(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(table[position, 2 * pair + 1], angle.cos(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("counts", [[3, 1, 5], [1], [2, 2, 2, 2]])
def test_captions_laid_out_closer_give_the_grids_numbers(counts: list[int]) -> None:
    generator = np.random.default_rng(0)
    sizes = np.array(counts)
    lengths = generator.integers(1, 9, sizes.sum())
    close = pack_captions(sizes, lengths)
    assert close.by_length is not None
    assert close.by_picture is not None
    grid = Packing(close.rows, close.length, close.slots)
    model, tokens = make_model(), int(lengths.sum())
    ids = torch.from_numpy(generator.integers(0, VOCABULARY, tokens))
    positions = torch.from_numpy(ranges(np.zeros_like(lengths), lengths))
    found = []
    for packing in (grid, close):
        logits = model(features_of(len(counts)), ids, positions, packing)
        logits.logsumexp(-1).sum().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append((logits.detach(), gradients))
        model.zero_grad()
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_rows_hold_captions_of_like_length_and_those_of_a_picture() -> None:
    packing = pack_captions(np.array([2, 4]), np.array([3, 9, 2, 2, 3, 8]))
    assert packing.captions.blocks == ((2, 2), (1, 3), (1, 3), (1, 8), (1, 9))
    assert packing.pictures(2).blocks == ((2, 15),)
    rows = torch.arange(1, 28).view(-1, 1)
    long, short = packing.captions.spread(rows)[-1], packing.captions.spread(rows)[0]
    assert long.flatten().tolist() == list(range(4, 13))
    assert short.flatten().tolist() == [13, 14, 15, 16]
    (pictures,) = packing.pictures(2).spread(rows)
    assert pictures[:, :, 0].tolist() == [[*range(1, 13), 0, 0, 0], [*range(13, 28)]]
    on_gpu = packing.to(torch.device("meta"))
    assert on_gpu.captions.blocks == ((8, 9),)
    assert on_gpu.pictures(2).blocks == ((2, 15),)


def test_packing_gradients_are_those_of_indexing() -> None:
    slots = torch.tensor([0, 1, 3, 5, 4])
    packing = Packing(2, 3, slots)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 4, dtype=torch.float64)

    def weighed(v: Tensor) -> Tensor:
        (rows,) = packing.captions.spread(v)
        return packing.captions.take([rows * weight])

    assert torch.autograd.gradcheck(weighed, (x,))
    assert packing.captions.take(packing.captions.spread(x)).equal(x)


def test_logits_of_a_search_are_not_rounded_to_bfloat16() -> None:
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16):
        logits = DecoderState(model.decoder, model.encode_memory(features_of(3))).step(
            torch.ones(3, 1, dtype=torch.long)
        )
    assert logits.dtype is torch.float32
    assert (logits != logits.bfloat16().float()).float().mean() > 0.9


def with_memory_layers(layers: int) -> CaptionModel:
    model = make_model()
    memory = memory_encoder(12, layers=layers, heads=2, ff_dim=24, dropout=0.0)
    return CaptionModel(model.projection, model.decoder, memory)


def test_memory_layers_let_each_patch_read_all_others_of_its_picture_alone() -> None:
    features = features_of(2).requires_grad_()
    memory = with_memory_layers(2).encode_memory(features)
    torch.autograd.backward(memory[0].keys[0, :, 0].sum())
    assert features.grad is not None
    assert (features.grad[0].abs().sum(-1) > 0).all()
    assert not features.grad[1].any()
    features.grad = None
    torch.autograd.backward(with_memory_layers(0).encode_memory(features)[0].keys[0, :, 0].sum())
    assert (features.grad[0].abs().sum(-1) > 0).tolist() == [True] + [False] * (PATCHES - 1)


def test_no_memory_layers_are_no_weights() -> None:
    assert with_memory_layers(0).state_dict().keys() == make_model().state_dict().keys()
    assert len(with_memory_layers(1).state_dict()) > len(make_model().state_dict())
