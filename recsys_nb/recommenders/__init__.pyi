# made by `make sync` from the modules' __all__: do not edit
from .base import top_k as top_k
from .base import check_at_least as check_at_least
from .base import check_above_0 as check_above_0
from .base import Catalogue as Catalogue
from .base import check_ids as check_ids
from .base import read_ids as read_ids
from .base import read_frame as read_frame
from .base import Question as Question
from .base import read_question as read_question
from .base import allow_items as allow_items
from .base import BaseRecommender as BaseRecommender
