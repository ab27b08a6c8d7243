"""Architecture search: `EnasSearch` and the parts it is made of."""

from nhn_tf.search.controller import Controller
from nhn_tf.search.enas import EnasSearch
from nhn_tf.search.searcher import SearchCallback, Searcher, Trial

__all__ = ["Controller", "EnasSearch", "SearchCallback", "Searcher", "Trial"]
