"""Networks that let an attacker see which word would change what they say: by the gradient of their embeddings.

A text `(B, length)` is opened by writing beside each of its words what may stand in its place: `(B, length, 1 + C)`.
Of an opened text a network says what it says of the text, and its gradient there is that of the embedding at the place
times the embedding of the word, for every word beside:

    d loss / d (weight of the word w at place i)  =  e_w . d loss / d e_i

so that the difference to that of the word which is there is what the loss gains from the replacement by first order
(Ebrahimi et al., 2018, equation 4). Passes through views are counted as those of any other model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparring.data.lexicon import Lexicon
from sparring.domains.text.tokenised import Tokenised
from sparring.domains.text.vocabulary import Vocabulary
from sparring.errors import BadInput, named

Vectors = Callable[[Tensor], Tensor]
"""Numbers of words, of any shape, to their embeddings, with the embedding's axis behind."""


class _Beside(torch.autograd.Function):
    """The embeddings of a text, whose gradient goes to all words of the opened text: `e_w . g_i`."""

    @staticmethod
    def forward(
        ctx: Any, opened: Tensor, embedded: Tensor, gathered: Callable[[Tensor], Tensor], of: Vectors
    ) -> Tensor:
        ctx.save_for_backward(opened)
        ctx.gathered, ctx.of = gathered, of
        return embedded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (opened,) = ctx.saved_tensors
        slopes = ctx.gathered(gradients[0])
        rows = zip(opened.round().long(), slopes, strict=True)
        worth = [torch.einsum("ld,lcd->lc", g, ctx.of(numbers)) for numbers, g in rows]  # row by row: they are many
        return torch.stack(worth).to(opened.dtype), None, None, None


def as_it_is(slopes: Tensor) -> Tensor:
    """A place a word: nothing to gather."""
    return slopes


def beside(opened: Tensor, embedded: Tensor, of: Vectors, gathered: Callable[[Tensor], Tensor] = as_it_is) -> Tensor:
    """The embeddings `(B, T, d)` of an opened text `(B, length, 1 + C)`, whose gradient goes to all of its words.

    For a model of one's own: it goes on from what this returns. `of` gives the embeddings of words by their numbers,
    and `gathered` makes slopes of words `(B, length, d)` of those of the embeddings, where a word has several.
    """
    found: Tensor = _Beside.apply(opened, embedded, gathered, of)  # type: ignore[no-untyped-call]
    return found


@contextmanager
def embedding_as(embedding: nn.Module, change: Callable[[Tensor], Any]) -> Iterator[None]:
    """Let a network go on from something else than its embeddings, meanwhile: from what `change` makes of them."""
    handle = embedding.register_forward_hook(lambda _, given, out: change(out))
    try:
        yield
    finally:
        handle.remove()


def embedding_of(network: nn.Module, ids: Tensor) -> nn.Embedding:
    """The embedding of a network that is handed the ids.

    Raises:
        BadInput: the network raises something on ids `(B, length)` int64, or hands them to no `nn.Embedding`.
    """
    found: list[nn.Embedding] = []

    def note(layer: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        if given and isinstance(given[0], Tensor) and given[0].shape == ids.shape and torch.equal(given[0], ids):
            assert isinstance(layer, nn.Embedding)
            found.append(layer)

    handles = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, nn.Embedding)]
    try:
        with torch.no_grad():
            network(ids)
    except Exception as error:  # the network's own code
        given = f"a network that raised {named(error)} on ids {tuple(ids.shape)}"
        raise BadInput(given, "one of ids (B, length) int64 to scores (B, K)", "try it on such ids") from error
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        need = "an nn.Embedding that is called with the ids"
        raise BadInput("a network that hands ids to no embedding", need, "or hand over a function of texts")
    return found[0]


class Words(nn.Module):
    """A network of whole words on rows of numbered words: `(B, length)`, or opened `(B, length, 1 + C)`.

    The network is called with ids `(B, length)` int64, as long as the longest text of the data.

    Raises:
        BadInput: a network that takes no ids, has no embedding for them, or a smaller one than the vocabulary.
    """

    ids: Tensor

    def __init__(self, network: nn.Module, vocabulary: Vocabulary, lexicon: Lexicon, length: int = 8) -> None:
        super().__init__()
        self.network, self.training = network, network.training
        self.register_buffer("ids", vocabulary.of_pieces(lexicon), persistent=False)
        place = next((weight.device for weight in network.parameters()), torch.device("cpu"))
        self.ids = self.ids.to(place)
        modes = [(part, part.training) for part in network.modules()]
        network.eval()
        try:
            tried = torch.full((2, length), vocabulary.unknown, device=place)
            tried[:, 1:] = vocabulary.padding  # a position's own embedding is called with no such ids
            self.embedding = [embedding_of(network, tried)]  # in a list: it is the network's, and no module more
        finally:
            for part, mode in modes:
                part.training = mode
        if (rows := self.embedding[0].num_embeddings) < len(vocabulary):
            given = f"an embedding of {rows} words for a vocabulary of {len(vocabulary)}"
            raise BadInput(given, "a row for every id", "use the vocabulary that the network was trained with")

    def of(self, numbers: Tensor) -> Tensor:
        """The embeddings of words by their numbers in the lexicon, with one axis more."""
        found: Tensor = self.embedding[0](self.ids[numbers])
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The scores `(B, K)`."""
        numbers = x.detach().round().long()
        ids = self.ids[numbers if x.dim() == 2 else numbers[..., 0]]
        opened = x.dim() == 3
        with embedding_as(self.embedding[0], lambda out: beside(x, out, self._constant) if opened else out):
            return self.network(ids)  # type: ignore[no-any-return]

    def _constant(self, numbers: Tensor) -> Tensor:
        return self.of(numbers).detach()


class SubWords(nn.Module):
    """A network of transformers behind a tokenizer that knows places: on rows of numbered words, also opened.

    A word is as many pieces as the tokenizer makes of it. Its slope is the mean of theirs, and the embedding of a word
    the sum of those of the pieces that it has by itself: a ranking, and exact where both words are one piece.
    """

    def __init__(self, network: nn.Module, tokenizer: Any, lexicon: Lexicon) -> None:
        super().__init__()
        self.network, self.lexicon, self.read = network, lexicon, Tokenised(network, tokenizer)
        self.embedding = [network.get_input_embeddings()]  # type: ignore[operator]
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """The scores `(B, K)`."""
        place = next(self.network.parameters()).device
        rows = x.detach().round().long()
        if x.dim() == 2:
            texts, which = self.lexicon.different(rows)
            return self.read.said(self.read.tokens(texts)).to(x.device)[which.to(x.device)]
        texts = self.lexicon.decode(rows[..., 0])
        tokens = self.read.tokens(texts, return_offsets_mapping=True, return_special_tokens_mask=True)
        owner = self._owner(rows[..., 0], tokens.pop("offset_mapping"), tokens.pop("special_tokens_mask")).to(place)
        count = rows.shape[1]

        def gathered(g: Tensor) -> Tensor:
            total = g.new_zeros(len(g), count + 1, g.shape[2])
            total.scatter_add_(1, owner.unsqueeze(2).expand_as(g), g)
            pieces = torch.zeros_like(total[..., 0]).scatter_add_(1, owner, torch.ones_like(g[..., 0]))
            return (total / pieces.clamp(min=1).unsqueeze(2))[:, :count]

        with embedding_as(self.embedding[0], lambda out: beside(x.to(place), out, self._sums, gathered)):
            return self.read.said(tokens).to(x.device)

    def _owner(self, rows: Tensor, offsets: Tensor, special: Tensor) -> Tensor:
        """The place of the word that each piece is of, `(B, T)` int64; one behind the last where it is of none."""
        lengths = torch.tensor([len(piece) for piece in self.lexicon.pieces])[rows.cpu()]
        owner = torch.searchsorted(lengths.cumsum(1), offsets[..., 1].contiguous())  # the word in which a piece ends
        return owner.masked_fill(special.bool() | (offsets[..., 1] == 0), rows.shape[1]).clamp(max=rows.shape[1])

    def _sums(self, numbers: Tensor) -> Tensor:
        """The sum of the embeddings of the pieces of words, by their numbers in the lexicon."""
        which, back = numbers.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        words = [self.lexicon.pieces[number] or " " for number in which.tolist()]
        parts = self.read.tokenizer(words, add_special_tokens=False)["input_ids"]
        weight = self.embedding[0].weight.detach()
        return torch.stack([weight[part].sum(0) for part in parts])[back]


def opened(model: object, lexicon: Lexicon) -> nn.Module | None:
    """A network that hands out the slopes of words, of a pair `(network, Vocabulary)` or `(network, tokenizer)`.

    Nothing where a model is something else: such a tokenizer has to say where its pieces are.

    Raises:
        BadInput: a vocabulary beside what is no network of its ids.
    """
    network, words = getattr(model, "model", None), getattr(model, "tokenizer", None)
    if isinstance(model, tuple) and len(model) == 2:
        network, words = model
    if isinstance(words, Vocabulary):
        if not isinstance(network, nn.Module):
            raise BadInput(f"a {type(network).__name__} with a vocabulary", "an nn.Module", "or a function of texts")
        return Words(network, words, lexicon)
    if isinstance(network, nn.Module) and getattr(words, "is_fast", False):
        embeds = getattr(network, "get_input_embeddings", None)
        if embeds is not None and isinstance(embeds(), nn.Embedding):
            return SubWords(network, words, lexicon)
    return None
