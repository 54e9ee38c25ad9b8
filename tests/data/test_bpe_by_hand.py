"""Byte-pair encoding in plain Python, as chapter 10 shows it, and the library: the same merges, the same ids."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from tokenizers import Tokenizer

from bigmodel_helpers.data import tokens

Word = tuple[bytes, ...]  # its tokens
Pair = tuple[bytes, bytes]

# The library numbers the bytes in this order: those that can be printed first.
ORDER = [*range(33, 127), *range(161, 173), *range(174, 256), *range(33), *range(127, 161), 173]


def pairs(words: dict[Word, int]) -> Counter[Pair]:
    counts: Counter[Pair] = Counter()
    for word, times in words.items():
        for pair in pairwise(word):
            counts[pair] += times
    return counts


def merge(word: Word, pair: Pair) -> Word:
    joined, place = [], 0
    while place < len(word):
        size = 2 if word[place : place + 2] == pair else 1
        joined.append(b"".join(word[place : place + size]))
        place += size
    return tuple(joined)


def learn(words: dict[Word, int], vocabulary: int) -> tuple[dict[bytes, int], dict[Pair, int]]:
    ids = {bytes([byte]): number for number, byte in enumerate(ORDER)}
    ranks: dict[Pair, int] = {}
    while len(ids) < vocabulary:
        counts = pairs(words)
        best = max(counts, key=lambda pair: (counts[pair], -ids[pair[0]], -ids[pair[1]]))
        ranks[best] = len(ranks)
        ids.setdefault(b"".join(best), len(ids))
        words = {merge(word, best): times for word, times in words.items()}
    return ids, ranks


def encode(word: Word, ids: dict[bytes, int], ranks: dict[Pair, int]) -> list[int]:
    while known := ranks.keys() & pairs({word: 1}).keys():
        word = merge(word, min(known, key=ranks.__getitem__))
    return [ids[token] for token in word]


def cut(tokenizer: Tokenizer, text: str) -> list[Word]:
    """Cut a text into words as the library does, and each into its bytes."""
    places = [place for _, place in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    return [tuple(bytes([byte]) for byte in text[start:end].encode()) for start, end in places]


PAGE = """\
A tokenizer cuts a text into pieces, and each piece gets a number. If every piece were a letter, a page would
be a long list of small numbers; if every piece were a word, there would be no number for a word that nobody
has written before. Byte-pair encoding lies between the two. It begins with bytes, of which there are 256, so
that no text is left without its numbers: not naïve, not 東京, not a smile 🙂. Then it looks for the two
neighbors that stand side by side most often, and makes one piece of them. It does so again, and again, until
there are as many pieces as we asked for: 300, 1024 or 50257.

    def count(words):
        return {pair: words.count(pair) for pair in zip(words, words[1:])}

Frequent words such as the, and, of become pieces of their own. Rare words are made of several: lowest is low
and est, newest is new and est. Aaaaaaaaah! Mississippi has its issi twice, and bananas their anan, too.
Two times two is 4, 12 times 12 is 144; digits stand alone, so a sum looks alike wherever it is written.
"""


@pytest.fixture(scope="module", params=[256, 257, 300, 560])
def both(request: pytest.FixtureRequest):
    tokenizer = tokens.train_bpe([PAGE], request.param)
    return tokenizer, *learn(Counter(cut(tokenizer, PAGE)), request.param)


def test_the_same_tokens_get_the_same_numbers(both):
    tokenizer, ids, _ = both
    assert tokens.as_bytes(tokenizer, range(tokenizer.get_vocab_size())) == [*ids]


def test_the_same_pairs_are_merged_in_the_same_order(both):
    tokenizer, ids, ranks = both
    theirs = json.loads(tokenizer.to_str())["model"]["merges"]
    numbers = [[tokenizer.token_to_id(part) for part in pair] for pair in theirs]
    assert numbers == [[ids[part] for part in pair] for pair in ranks]


@pytest.mark.parametrize(
    "text", [PAGE, PAGE[::-1], "", "lowest  newest\n\n\t12 issippi 春眠 \x00", "ab" * 500]
)
def test_texts_get_the_same_ids(both, text):
    tokenizer, ids, ranks = both
    assert [number for word in cut(tokenizer, text) for number in encode(word, ids, ranks)] == (
        tokenizer.encode(text).ids
    )
