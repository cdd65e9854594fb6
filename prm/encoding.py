"""Text in a PRM's vocabulary, behind other text, and the tokens that a format's labels are."""

from cos.search.errors import InputError
from cos.search.ports import Encoder

_BEFORE = "a"
"""Stands before a text while it is encoded: a letter, with which tokenizers join neither white space nor signs."""


def continued(vocabulary: Encoder, text: str) -> tuple[int, ...]:
    """Token ids of a text that stands behind other text, as it begins with white space, a digit or a sign.

    Many tokenizers put a space before all they are given, which is right for the beginning of a text only.

    Errors: ValueError where the vocabulary has no tokens for the text alone.
    """
    before = vocabulary.encode(_BEFORE)
    ids = vocabulary.encode(_BEFORE + text)
    if ids[: len(before)] != before:
        raise ValueError(f"the vocabulary joins {text[:16]!r} with the letter before it")
    return ids[len(before) :]


def single(vocabulary: Encoder, text: str, role: str) -> int:
    """The one token that a text is, behind other text: a control token, or else an ordinary one. ``role``: what the
    format takes it for, for the error.

    Errors: InputError where it is no single token.
    """
    control = vocabulary.control_id(text)
    try:
        ids = continued(vocabulary, text) if control is None else (control,)
    except ValueError:
        ids = ()
    if len(ids) != 1:
        made = f"makes it {len(ids)}" if ids else "joins it with what stands before it"
        raise InputError(
            f"the PRM's tokenizer has no single token {text!r} ({role}) but {made}; "
            "give a PRM trained in this format, or another --prm-format",
            "prm",
        )
    return ids[0]
