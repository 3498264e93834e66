"""Whisper (Radford et al., 2023) as a network on waveforms, and what an attack wants it to write.

    recogniser = Whisper(model, tokenizer)
    goal = recogniser.target(["Open the front door."])
    z = pgd(linf(0.008, low=-1.0), steps=100)(recogniser, x, goal, rng)
    recogniser.transcribe(z)

    task = Transcription(recogniser, right=0.5)
    audit(recogniser, task.data("sentences", x, texts), snr(30))

The network's outputs are what its encoder heard, `(B, S, D)`; the goal has the decoder in it, and reads them. So rows
may have goals of different texts, and leave a search one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.domains.speech.features import Mel
from sparring.errors import BadInput
from sparring.goals import Measured, Pixels
from sparring.tasks import Checked, Task, shapes, unusable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration

RATE = 16_000
"""What Whisper listens at, in Hz."""

STRIDE = 320
"""Samples of what the encoder gives a vector for."""

MANY = 51_865
"""The size of the vocabulary from which a Whisper knows many languages, as its own code has it."""

NOTHING = -100
"""The token that stands where a shorter text has ended."""


class Whisper(nn.Module):
    """A Whisper of Hugging Face on waveforms `(B, T)` at 16 kHz, levels in [-1, 1], with gradients in the sound.

    It gives what the encoder heard, `(B, S, D)`. Whisper is deployed on 30 seconds, filled up with silence, and so it
    is here unless `silence` says how many seconds are put behind a recording. Two are enough for a transcript to come
    to its end, and make a pass several times as fast; but what fools it there need not fool it as it is deployed.
    Transcripts are greedy, without timestamps; tokens that the generation config suppresses are never written.

    Raises:
        BadInput: a model of several languages, of which the adapter would have to know one.
    """

    never: Tensor
    never_first: Tensor
    opening: Tensor

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        *,
        silence: float | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.silence = model.eval(), tokenizer, silence
        config, said = model.config, model.generation_config
        start, end, silent = (
            _token(tokenizer, f"<|{name}|>") for name in ("startoftranscript", "endoftext", "notimestamps")
        )
        if config.vocab_size >= MANY:
            raise BadInput("a Whisper of many languages", "one for English (tiny.en, base.en, ...)", "load another one")
        self.end = end
        self.mel = Mel(RATE, n_fft=400, hop=160, mels=config.num_mel_bins, scale="slaney")
        never = torch.zeros(config.vocab_size, dtype=torch.bool)
        never[end + 1 :] = True  # tokens that are no text
        never[list(said.suppress_tokens or [])] = True
        first = never.clone()
        first[list(said.begin_suppress_tokens or [])] = True
        self.register_buffer("never", never, persistent=False)
        self.register_buffer("never_first", first, persistent=False)
        self.register_buffer("opening", torch.tensor([start, silent]), persistent=False)
        self.to(next(model.parameters()).device)

    def forward(self, x: Tensor) -> Tensor:
        """What the encoder heard.

        Raises:
            BadInput: inputs that are no waveforms `(B, T)`, or more than 30 seconds.
        """
        encoder = self.model.model.encoder
        longest = STRIDE * encoder.embed_positions.num_embeddings
        if x.dim() != 2 or x.shape[1] > longest:
            raise BadInput(
                f"inputs of shape {tuple(x.shape)}", f"waveforms (B, T) of up to {longest} samples", "cut them"
            )
        length = longest if self.silence is None else min(x.shape[1] + round(self.silence * RATE), longest)
        length += -length % STRIDE
        mel = self.mel(functional.pad(x, (0, length - x.shape[1])))[:, :, :-1].clamp(min=1e-10).log10()
        loudest = mel.flatten(1).amax(1).view(-1, 1, 1)
        features = (torch.maximum(mel, loudest - 8) + 4) / 4
        heard = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(features)))).transpose(1, 2)
        heard = heard + encoder.embed_positions.weight[: heard.shape[1]]
        for layer in encoder.layers:
            out = layer(heard, None)
            heard = out[0] if isinstance(out, tuple) else out  # as transformers has it before version 5
        return encoder.layer_norm(heard)  # type: ignore[no-any-return]

    def spell(self, texts: Sequence[str]) -> Tensor:
        """The tokens of some texts as Whisper writes them, the end included, `(B, L)`, filled up with `NOTHING`."""
        rows = [
            [*self.tokenizer.encode(f" {text.strip()}" if text.strip() else "", add_special_tokens=False), self.end]
            for text in texts
        ]
        tokens = torch.full((len(rows), max(map(len, rows))), NOTHING)
        for row, spelled in zip(tokens, rows, strict=True):
            row[: len(spelled)] = torch.tensor(spelled)
        return tokens.to(self.opening.device)

    def write(self, heard: Tensor, tokens: Tensor) -> Tensor:
        """The logits of every token after those before it, `(B, K, L)`, were `tokens`, `(B, L)`, written so far."""
        before = torch.cat([self.opening.expand(len(tokens), -1), tokens[:, :-1].clamp(min=0)], 1)
        decoder = self.model.model.decoder
        state = decoder(input_ids=before, encoder_hidden_states=heard, use_cache=False).last_hidden_state
        logits = self.model.proj_out(state[:, len(self.opening) - 1 :])
        first, later = logits[:, :1].masked_fill(self.never_first, -1e4), logits[:, 1:].masked_fill(self.never, -1e4)
        return torch.cat([first, later], 1).transpose(1, 2)

    @torch.no_grad()
    def transcribe(self, x: Tensor, *, most: int = 100) -> list[str]:
        """The likeliest token after each other, to the end or for `most` tokens, as texts."""
        heard = self(x)
        written = torch.zeros(len(x), 0, dtype=torch.int64, device=heard.device)
        ended = torch.zeros(len(x), dtype=torch.bool, device=heard.device)
        for _ in range(most):
            room = torch.cat([written, written.new_zeros(len(x), 1)], 1)
            token = self.write(heard, room)[:, :, -1].argmax(1)
            written = torch.cat([written, token.where(~ended, self.end).unsqueeze(1)], 1)
            ended |= token == self.end
            if bool(ended.all()):
                break
        texts = [[token for token in row if token != self.end] for row in written.tolist()]
        return [self.tokenizer.decode(text).strip() for text in texts]

    def target(self, texts: Sequence[str]) -> Transcript:
        """The goal that it writes these texts, one a row, to the letter.

        Raises:
            BadInput: a text with a token that it never writes, or none.
        """
        tokens = self.spell(texts)
        barred = self.never[tokens.clamp(min=0)] & (tokens != NOTHING)
        barred[:, 0] |= self.never_first[tokens[:, 0]]
        if bool(barred.any()):
            text = texts[int(barred.any(1).nonzero()[0])]
            raise BadInput(f"{text!r} as a target", "a text that this Whisper may write", "spell it otherwise")
        return Transcript(tokens, self, 1.0, -1)

    def goal(self, texts: Sequence[str], *, right: float = 0.5) -> Transcript:
        """The goal that it gets less than the share `right` of the tokens of what was said, each told those before."""
        return Transcript(self.spell(texts), self, right)


@dataclass(frozen=True)
class Transcript(Measured):
    """Writing a text, token by token: fewer than a share `right` of them follow from those before (`sign` -1: so many).

    The outputs are what a recogniser heard; the reference is its tokens, `(B, L)`. With `sign` -1 and a share of one it
    is reached exactly where a greedy transcript is the text: each token is then the likeliest one after those before.
    """

    reference: Tensor
    recogniser: Whisper
    right: float
    sign: int = 1

    def _read(self, outputs: Tensor) -> tuple[Pixels, Tensor]:
        """The goal at every token, and the logits there."""
        return Pixels(self.reference, self.right, NOTHING, self.sign), self.recogniser.write(outputs, self.reference)

    def measure(self, outputs: Tensor) -> Tensor:
        """The share of the tokens that follow."""
        goal, logits = self._read(outputs)
        return goal.measure(logits)

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows with fewer right tokens (`sign` -1: with so many)."""
        goal, logits = self._read(outputs)
        return goal.reached(logits)

    def margin(self, outputs: Tensor) -> Tensor:
        """How near the nearest of the tokens are that must change."""
        goal, logits = self._read(outputs)
        return goal.margin(logits)

    def loss(self, outputs: Tensor) -> Tensor:
        """The mean cross-entropy over the tokens, as Whisper is trained on it."""
        goal, logits = self._read(outputs)
        return goal.loss(logits)


@dataclass(frozen=True)
class Transcription(Task):
    """Writing down what was said: labels are texts. To be wrong is that fewer than the share `right` of tokens follow.

    Each is asked for with those before it told, which costs one pass of the decoder; what it would write by itself is
    further off, as one wrong token leads to the next.
    """

    name = "transcription"
    needs = "what a Whisper heard (B, S, D), the tokens of texts (B, L)"
    measures = "share of the tokens that follow"

    recogniser: Whisper = field(repr=False)
    right: float

    def __post_init__(self) -> None:
        if not 0 < self.right <= 1:
            raise BadInput(f"a share of {self.right} tokens", "a share above 0 and up to 1", "give say 0.5")

    def goal(self, labels: Tensor) -> Transcript:
        """Fewer tokens that follow."""
        return Transcript(labels, self.recogniser, self.right)

    def target(self, wanted: Tensor) -> Transcript:
        """The wanted text, in so many tokens."""
        return Transcript(wanted, self.recogniser, self.right, -1)

    def labels(self, y: Any, name: str) -> Checked:
        """Texts, or their tokens `(N, L)` as `Whisper.spell` gives them."""
        if isinstance(y, Tensor):
            return y.numpy().astype(np.int64), ()
        odd = next((text for text in y if not isinstance(text, str) or not text.strip()), None)
        if odd is not None:
            raise BadInput(f"{odd!r} among the texts of {name}", "a text for every recording", "leave silence out")
        return self.recogniser.spell(list(y)).cpu().numpy(), ()

    def misfit(self, outputs: Tensor, labels: Tensor) -> str:
        """Outputs that are no sequence of vectors, NaN or infinity."""
        if outputs.dim() != 3 or labels.dim() != 2:
            return shapes(outputs, labels)
        return unusable(outputs)

    def __str__(self) -> str:
        return f"{self.name}:{self.right:g}"


def _token(tokenizer: Any, text: str) -> int:
    """The number of a special token.

    Raises:
        BadInput: it has none.
    """
    number = tokenizer.convert_tokens_to_ids(text)
    if number is None or tokenizer.convert_ids_to_tokens(number) != text:
        raise BadInput(f"a tokenizer without {text}", "that of a Whisper", "load it from the folder of the model")
    return int(number)
