"""Parameters of the systems at the papers' sizes, by hand from the papers' descriptions, or as
published. They know nothing of fusekit: widths, layers and vocabularies are multiplied out."""

BERT, CLIP_WORDS, LLAMA = 30522, 49408, 32000


def block(d: int) -> int:
    """Attention (four maps), a feed-forward network of four times the width, two norms."""
    return 12 * d * d + 13 * d


def vit(d: int, layers: int, numbers: int, tokens: int) -> int:
    """A map of patches of so many numbers, positions, layers, a norm."""
    return numbers * d + d + tokens * d + layers * block(d) + 2 * d


def text(d: int, layers: int, words: int, length: int) -> int:
    """Embeddings of words and positions, layers, a norm."""
    return words * d + length * d + layers * block(d) + 2 * d


def reading(d: int, other: int) -> int:
    """Attention to tokens of another width, with its norms."""
    return 2 * d * d + 2 * d * other + 4 * d + 2 * (d + other)


def words(d: int, vocab: int) -> int:
    """BERT's head of words, not tied to the embeddings: a layer, a norm, a map to all words."""
    return d * d + 3 * d + d * vocab + vocab


def dense(a: int, b: int) -> int:
    return a * b + b


RGB = 3
COUNTS = {
    # published: ViT-B/32 and a text transformer of width 512, as released
    "clip": 151_277_313,
    # that, and the combiner: two tanh features and a gate of both
    "clip4cir": 151_277_313 + 2 * dense(512, 512) + dense(1024, 512),
    # published: image encoder 85.8 M, BERT with cross-attention 123.7 M (section 3.1); heads by
    # hand; the averages of the image encoder, of the six layers of text, and of both projections
    "albef": 85.8e6
    + 123.7e6
    + words(768, BERT)
    + 2 * dense(768, 256)
    + (85.8e6 + text(768, 6, BERT, 30) + 2 * dense(768, 256)),
    # ViT-B/16 at 288 pixels, RoBERTa; of each, six bridged layers that read the other; words
    "bridgetower": vit(768, 12, 16 * 16 * RGB, 325)
    + text(768, 12, 50265, 50)
    + 12 * (block(768) + reading(768, 768) + dense(768, 768) + 2 * 768)
    + words(768, 50265),
    # two ViT-B: tubelets of 2 x 16 x 16, and patches of a spectrogram; four tokens between them
    "mbt": vit(768, 12, 2 * 16 * 16 * RGB, 16 * 196 + 1)
    + vit(768, 12, 16 * 16, 400 + 1)
    + 4 * 768
    + dense(768, 527),
    # nine layers of text, five of regions, five of both with attention to each other
    "lxmert": text(768, 9, BERT, 20)
    + dense(2052, 768)
    + 5 * block(768)
    + 10 * (block(768) + reading(768, 768))
    + dense(768, 9500),
    # one BERT over words (cased vocabulary) and projected regions
    "uniter": text(768, 12, 28996, 60) + dense(2055, 768) + words(768, 28996),
    # one BERT in which each of four modalities has feed-forward networks of its own
    "skillnet": text(768, 12, 21128, 32)
    + 3 * 12 * (8 * 768 * 768 + 5 * 768)
    + dense(16 * 16 * RGB, 768)
    + dense(16 * 16, 768)
    + dense(3 * 16 * 16 * RGB, 768)
    + (196 + 256 + 392) * 768
    + 4 * dense(768, 768),
    # tokenizer of 12 layers, and a transformer of 12 over its codes and words
    "fuselip": vit(768, 12, 16 * 16 * RGB, 256)
    + dense(768, 12)
    + dense(12, 768)
    + 4096 * 768
    + 256 * 768
    + text(768, 12, CLIP_WORDS, 64)
    + dense(768, 768)
    + dense(768, CLIP_WORDS),
    # ViT-L/14, BERT-sized question encoder and language model; the question, brought to the
    # image's width, is read by the upper half of the image's layers
    "qa_vit": vit(1024, 24, 14 * 14 * RGB, 256)
    + 2 * text(768, 12, 32128, 64)
    + 12 * dense(768, 1024)
    + dense(1024, 768)
    + dense(768, 3129),
    # embeddings of 300, an LSTM of 128, factors of rank four from each modality to 64
    "lmf": 20000 * 300
    + 4 * (300 * 128 + 128 * 128 + 128)
    + dense(8, 32)
    + dense(32, 32)
    + vit(32, 2, 2 * 4 * 4 * RGB, 32)
    + 4 * 64 * (129 + 33 + 33)
    + 64
    + dense(64, 4),
    # three encoders, one shared module of four layers, two maps before it for the last modality
    "oneencoder": vit(768, 12, 16 * 16 * RGB, 196)
    + text(768, 12, BERT, 128)
    + vit(768, 12, 16 * 16, 256)
    + 4 * block(768)
    + 3 * dense(768, 1000)
    + 3 * dense(768, 768),
    # experts of 3072 in every second of 12 layers, 16 of each
    "imp": text(768, 12, LLAMA, 256)
    + 6 * (16 * 2 * 768 * 3072 - (8 * 768 * 768 + 5 * 768))
    + dense(16 * 16 * RGB, 768)
    + dense(16 * 16, 768)
    + (256 + 128) * 768
    + dense(768, 768)
    + dense(768, 1000),
}
"""By system."""
