"""Language models of Hugging Face as assistants: answers, losses of texts, and gradients in one-hot tokens."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from sparring.domains.chat.cases import Case, Conversation
from sparring.domains.chat.threats import PRINTABLE
from sparring.errors import BadInput, line
from sparring.models.victim import frozen, inference
from sparring.streams import Streams
from sparring.types import Access

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOGETHER = 32
"""Rows in a pass: always as many, so that no setting of speed changes a number."""

LONGEST = 48
"""Tokens of an answer, at most."""

MARK = "\ue000"
"""A letter that nobody writes (Unicode, private use): where it comes out of the template is the attacker's place."""

ALIKE = 1e-2
"""How far the loss with a prefix that is kept may be from the loss without it, in nats."""

STARTS = 64
"""Draws of tokens to begin with."""


class LanguageModel:
    """A causal language model and its tokenizer, deployed with greedy answers through the tokenizer's chat template.

    Answers end with the end of the turn, or after `longest` tokens. Every conversation is answered by itself, so that
    nothing depends on what else is asked. The network is left as it is: mode, weights and gradients.

    Raises:
        BadInput: a tokenizer without a chat template; a network that is no causal language model.
    """

    access: Access = "gradients"

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        longest: int = LONGEST,
    ) -> None:
        if not isinstance(network, nn.Module) or not hasattr(network, "generate"):
            need = "a causal language model of transformers"
            raise BadInput(f"a {type(network).__name__}", need, "load it with AutoModelForCausalLM")
        if not getattr(tokenizer, "chat_template", None):
            need = "one of a model that follows instructions"
            raise BadInput("a tokenizer without a chat template", need, "set tokenizer.chat_template")
        self.network, self.tokenizer, self.longest = network, tokenizer, longest
        self.name = name or str(getattr(network.config, "name_or_path", "")) or type(network).__name__

    # --- what is deployed

    def answers(self, x: Case, texts: Sequence[str]) -> list[str]:
        """The greedy answers with each of the texts in the attacker's place."""
        return self.respond([x.conversation(text) for text in texts])

    def respond(self, conversations: Sequence[Conversation]) -> list[str]:
        """The greedy answers to some conversations."""
        return [self._answer(ids) for ids in self.read(conversations)]

    @torch.no_grad()
    def _answer(self, ids: list[int]) -> str:
        """The likeliest token after each other, until one ends the turn."""
        given, kept, written = torch.tensor([ids], device=self.device), None, list[int]()
        with self.held():
            while len(written) < self.longest:
                out = self.network(input_ids=given, **self.keeping(kept))
                token = int(out.logits[0, -1].argmax())
                if token in self._ends:
                    break
                written.append(token)
                kept = getattr(out, "past_key_values", None)
                last = torch.tensor([[token]], device=self.device)
                given = torch.cat([given, last], 1) if kept is None else last
        return str(self.tokenizer.decode(written, skip_special_tokens=True)).strip()

    @cached_property
    def _ends(self) -> frozenset[int]:
        """The tokens that end a turn, as the network or the tokenizer has it."""
        ends: Any = cast("Any", self.network).generation_config.eos_token_id
        known = ends if isinstance(ends, list) else [ends]
        return frozenset(token for token in (*known, self.tokenizer.eos_token_id) if token is not None)

    def read(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """The tokens of conversations as the assistant is given them, up to where its answer begins.

        Raises:
            BadInput: more of them than it can read, with an answer behind.
        """
        texts = [self.rendered(conversation) for conversation in conversations]
        rows: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        longest, most = max(map(len, rows), default=0), getattr(self.network.config, "max_position_embeddings", None)
        if most is not None and longest + self.longest > most:
            given = f"a conversation of {longest} tokens, and an answer of {self.longest}"
            raise BadInput(given, f"{most} at most, as {self.name} reads", "shorten the case, or lower --longest")
        return rows

    def rendered(self, conversation: Conversation) -> str:
        """A conversation through the chat template.

        Raises:
            BadInput: what the template refuses, as some do a system's turn.
        """
        try:
            return str(self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
        except Exception as error:
            roles = " and ".join(turn["role"] for turn in conversation)
            given = f"the chat template of {self.name} refuses turns of {roles} ({line(error)[:120]})"
            raise BadInput(given, "roles that it has", "leave system out, or change the template") from error

    # --- what an attacker who has the weights works with

    def slot(self, x: Case, wanted: str) -> LanguageSlot:
        """The attacker's place in a case."""
        return LanguageSlot(self, x, wanted)

    def tokens(self, text: str) -> list[int] | None:
        """A text alone; None where a token of it is one of the template's."""
        ids = self.ids(text)
        return None if self._special.intersection(ids) else ids

    def ids(self, text: str) -> list[int]:
        """A text as tokens, with nothing put around it."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def spelled(self, ids: Tensor) -> str:
        """Tokens as text."""
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def allowed(self, ascii_only: bool) -> Tensor:
        """The tokens that are text by themselves, `(V,)` bool: no parts of letters, none of the template's."""
        return self._printable if ascii_only else self._text

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset([*self.tokenizer.all_special_ids, *self.tokenizer.get_added_vocab().values()])

    @cached_property
    def _pieces(self) -> list[str]:
        """Every token of the vocabulary by itself."""
        return self.tokenizer.batch_decode(  # type: ignore[no-any-return]
            [[i] for i in range(len(self.tokenizer))], clean_up_tokenization_spaces=False
        )

    @cached_property
    def _text(self) -> Tensor:
        mask = torch.zeros(len(self.embedding), dtype=torch.bool)
        for i, piece in enumerate(self._pieces[: len(mask)]):
            mask[i] = bool(piece) and "\ufffd" not in piece and i not in self._special
        return mask

    @cached_property
    def _printable(self) -> Tensor:
        plain = torch.tensor([PRINTABLE.issuperset(piece) for piece in self._pieces[: len(self.embedding)]])
        mask = self._text.clone()
        mask[: len(plain)] &= plain
        return mask

    @property
    def embedding(self) -> Tensor:
        """The vectors of the tokens, `(V, D)`."""
        weight: Tensor = cast("Any", self.network).get_input_embeddings().weight
        return weight

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.embedding.device

    @cached_property
    def settings(self) -> frozenset[str]:
        """What the network's forward pass takes."""
        return frozenset(inspect.signature(self.network.forward).parameters)

    def keeping(self, kept: Any) -> dict[str, Any]:
        """The settings by which it goes on from keys and values, under the name that its version has for them."""
        return {"use_cache": True, "cache" if "cache" in self.settings else "past_key_values": kept}

    @contextmanager
    def held(self) -> Iterator[None]:
        """The network in inference mode, its weights without gradients; both are given back."""
        with frozen(self.network), inference(self.network):
            yield

    def gap(self, before: Sequence[int], after: Sequence[int]) -> Gap:
        """A row of tokens with a gap in it."""
        return Gap(self, before, after)


class Gap:
    """A row of tokens with a gap: what the network says after each, with the vectors of some tokens in the gap.

    What stands before the gap is read once, and kept as keys and values. A network that keeps something else (whose
    losses differ with it, which is tried) reads all of it each time.
    """

    def __init__(self, model: LanguageModel, before: Sequence[int], after: Sequence[int]) -> None:
        self.model, self.device = model, model.device
        self.before, self.after = (torch.tensor([list(ids)], device=self.device).long() for ids in (before, after))
        self.kept = self._read() if len(before) else None

    def _read(self) -> Any:
        try:
            with torch.no_grad(), self.model.held():
                kept = self.model.network(input_ids=self.before, **self.model.keeping(None)).past_key_values
            some = self.before[:, -1:] if not self.after.shape[1] else self.after
            cached, whole = (self._said(self._vectors(some), 1, kept=one).log_softmax(2) for one in (kept, None))
            return kept if bool((cached - whole).abs().max() < ALIKE) else None
        except (AttributeError, TypeError, ValueError, NotImplementedError):  # a cache of another make, or none
            return None

    def _vectors(self, ids: Tensor) -> Tensor:
        return self.model.embedding[ids].detach()

    def logits(self, inside: Tensor, last: int) -> Tensor:
        """The logits after each of the `last` tokens, `(B, last, V)`, for vectors `(B, n, D)` in the gap."""
        rows = torch.cat([inside, self._vectors(self.after).expand(len(inside), -1, -1)], 1)
        return self._said(rows, last, kept=self.kept)

    def _said(self, rows: Tensor, last: int, *, kept: Any) -> Tensor:
        given: dict[str, Any] = {"use_cache": False}
        if kept is None:
            rows = torch.cat([self._vectors(self.before).expand(len(rows), -1, -1), rows], 1)
        else:
            copied = copy.deepcopy(kept)  # the network writes into what it is given
            copied.batch_repeat_interleave(len(rows))
            given = self.model.keeping(copied)
        if "logits_to_keep" in self.model.settings:  # which spares those of all other tokens
            given["logits_to_keep"] = last
        with self.model.held():
            logits: Tensor = self.model.network(inputs_embeds=rows, **given).logits
        return logits[:, -last:].float()


class LanguageSlot:
    """The attacker's place in one case of a language model (see `assistant.Slot`).

    The conversation is rendered with a mark in the place, and what stands before and after it is tokenised: slices are
    counted in tokens. Whether some tokens in between are the ones that the deployed model reads is asked of the
    tokenizer, for the whole conversation (`fits`), since tokens may grow together with what stands beside them.

    Raises:
        BadInput: a template that leaves the place out or doubles it, a wanted text without tokens.
    """

    def __init__(self, model: LanguageModel, x: Case, wanted: str) -> None:
        self.model, self.x = model, x
        parts = model.rendered(x.conversation(MARK)).split(MARK)
        if len(parts) != 2:
            given = f"a chat template that has the message {len(parts) - 1} times"
            raise BadInput(given, "a message once", "change the template")
        self.before, self.after = (model.ids(part) for part in parts)
        self.wanted = torch.tensor(model.ids(wanted), device=model.device)
        if not len(self.wanted):
            raise BadInput(f"{wanted!r} as what is wanted", "a text of some tokens", "write another one")

    @cached_property
    def gap(self) -> Gap:
        """The place, with all that stands after it, up to what is wanted."""
        return self.model.gap(self.before, [*self.after, *self.wanted.tolist()])

    @cached_property
    def begun(self) -> Gap:
        """The conversation up to the place."""
        return self.model.gap(self.before, [])

    def start(self, length: int, allowed: Tensor, rng: Streams) -> Tensor:
        """`! ! !`, as Zou et al. (2023) begin, or the first of some draws that is read as such."""
        marks = torch.tensor(self.model.ids(" !" * length))
        some = allowed.nonzero().flatten()
        draws = (some[rng.at("start").at(i).integers(len(some), length)[0]] for i in range(STARTS))
        for ids in (marks, *draws):
            if len(ids) == length and bool(allowed[ids].all()) and bool(self.fits(ids.unsqueeze(0))):
                return ids
        given = f"the place of case {self.x.name!r}, where no {length} tokens are read as they were written"
        raise BadInput(given, "a place with a line break or a quotation mark before it", "write it so")

    def text(self, ids: Tensor) -> str:
        """The tokens as text."""
        return self.model.spelled(ids)

    def tokens(self, text: str) -> Tensor:
        """The text as tokens."""
        return torch.tensor(self.model.ids(text)).long()

    def fits(self, ids: Tensor) -> Tensor:
        """Which rows are read as they were written: tokenised as deployed, the conversation is the same tokens."""
        read = self.model.read([self.x.conversation(self.text(row)) for row in ids])
        wanted = ([*self.before, *row, *self.after] for row in ids.tolist())
        return torch.tensor([one == other for one, other in zip(read, wanted, strict=True)], dtype=torch.bool)

    def loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and `reached` of rows of tokens."""
        return judged(self.gap, ids, self.wanted)

    def slope(self, ids: Tensor) -> Tensor:
        """The gradient of the loss in the one-hot rows of the tokens, `(n, V)`."""
        with torch.enable_grad():
            table = self.model.embedding.detach()
            hot = one_hot(ids.to(table.device), len(table)).to(table.dtype).requires_grad_()
            loss, _ = saying(self.gap.logits((hot @ table).unsqueeze(0), len(self.wanted) + 1), self.wanted)
            (slope,) = torch.autograd.grad(loss.sum(), hot)
        return slope.cpu()

    def scores(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Losses and `reached` of texts, tokenised as deployed."""
        return scored(self.begun, [self.x.conversation(text) for text in texts], self.wanted)


def scored(begun: Gap, conversations: Sequence[Conversation], wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and `reached` of answering conversations with some tokens, each `(B,)`.

    Those that begin with the tokens of `begun` go on from there; what is of one length is read together.
    """
    model, start = begun.model, begun.before[0].tolist()
    rows = model.read(conversations)
    losses, reached = torch.zeros(len(rows)), torch.zeros(len(rows), dtype=torch.bool)
    groups: dict[tuple[bool, int], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((row[: len(start)] == start, len(row)), []).append(i)
    for (same, _), group in groups.items():
        gap, begin = (begun, len(start)) if same else (model.gap([], []), 0)
        ids = torch.tensor([[*rows[i][begin:], *wanted.tolist()] for i in group])
        losses[group], reached[group] = judged(gap, ids, wanted)
    return losses, reached


@torch.no_grad()
def judged(gap: Gap, ids: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and `reached` of rows of tokens in a gap at whose end stand the wanted ones, `TOGETHER` a pass."""
    found = [
        saying(gap.logits(gap.model.embedding[part], len(wanted) + 1), wanted)
        for part in torch.split(ids.to(gap.device), TOGETHER)
    ]
    losses, reached = zip(*found, strict=True)
    return torch.cat(losses).cpu(), torch.cat(reached).cpu()


def saying(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `-log p` of the wanted tokens, and whether each is the likeliest, of logits `(B, len(wanted) + 1, V)`."""
    said = logits[:, :-1]
    labels = wanted.expand(len(said), -1)
    loss = cross_entropy(said.transpose(1, 2), labels, reduction="none").mean(1)
    return loss, (said.argmax(2) == labels).all(1)
