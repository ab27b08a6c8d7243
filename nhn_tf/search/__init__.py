"""The searches, `EnasSearch`, `LocationSearch` and `DirectionSearch`, and the parts they are made of."""

from nhn_tf.storage import backends as backends  # isort: skip
from nhn_tf.search.callbacks import SearchCallback
from nhn_tf.search.controller import Controller
from nhn_tf.search.directions import DirectionSearch
from nhn_tf.search.enas import EnasSearch
from nhn_tf.search.evolution import Evolution, Population
from nhn_tf.search.history import History
from nhn_tf.search.hypermodel import NHNHyperModel
from nhn_tf.search.locations import LocationSearch
from nhn_tf.search.progress import Progress
from nhn_tf.search.searcher import Searcher
from nhn_tf.search.trials import Trial

__all__ = [
    "Controller",
    "DirectionSearch",
    "EnasSearch",
    "Evolution",
    "History",
    "LocationSearch",
    "NHNHyperModel",
    "Population",
    "Progress",
    "SearchCallback",
    "Searcher",
    "Trial",
]
