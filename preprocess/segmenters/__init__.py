"""Word segmentation behind one interface: Juman++, JUMAN, MeCab with JumanDIC, or none. A new engine is a module and a branch here."""

from preprocess.config import SegmenterConfig
from preprocess.segmenters.base import Answer, Rejected, Segmenter, Spaced

__all__ = ["Answer", "Rejected", "Segmenter", "Spaced", "open_segmenter"]


def open_segmenter(config: SegmenterConfig) -> Segmenter:
    """Opens the engine that the recipe names.

    Raises:
        SegmenterError: its program is missing, is another one, or does not segment a plain sentence.
        ConfigError: the recipe gives it settings that it does not have.
    """
    # Imported late: each engine loads libraries that the others do not need.
    if config.engine == "jumanpp":
        from preprocess.segmenters.jumanpp import Jumanpp

        return Jumanpp(config)
    if config.engine == "juman":
        from preprocess.segmenters.juman import Juman

        return Juman(config)
    if config.engine == "none":
        from preprocess.segmenters.plain import PlainText

        return PlainText()
    from preprocess.segmenters.mecab import Mecab

    return Mecab(config)
