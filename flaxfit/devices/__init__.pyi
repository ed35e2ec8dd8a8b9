from . import distributed as distributed
from . import sharding as sharding
