from . import augmentation as augmentation
from . import averaging as averaging
from . import constraints as constraints
from . import masks as masks
from . import penalties as penalties
from . import proximal as proximal
