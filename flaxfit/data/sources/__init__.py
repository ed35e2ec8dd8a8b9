"""The published data sets that flaxfit reads itself, each in a module of its own."""

from flaxfit.data.sources.higgs import HIGGS
from flaxfit.data.sources.images import FASHION_MNIST, MNIST
from flaxfit.data.sources.imdb import IMDB
from flaxfit.data.sources.sonar import SONAR
from flaxfit.data.sources.source import Source

SOURCES: dict[str, Source] = {source.name: source for source in (MNIST, FASHION_MNIST, IMDB, HIGGS, SONAR)}
