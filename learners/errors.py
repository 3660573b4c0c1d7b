"""What can go wrong with learning and with what is learned.

LearnerError
├── DivergedStep            a step's loss or gradient is not finite; the batch is skipped, the weights stay
├── CorruptSnapshot         bytes of a snapshot were cut or altered, or are of an unknown format
├── ForeignSnapshot         a snapshot was made under another schema, or for a network of another shape
├── StaleSnapshot           a delta stands on a version that the receiver does not have; take a full one
├── UnknownVersion          a version is asked for that is not kept
└── JudgeAway               who looks at versions before they are published does not answer
"""


class LearnerError(Exception):
    """Root of the tree."""


class DivergedStep(LearnerError):
    """Loss or gradient of a batch is not finite."""


class CorruptSnapshot(LearnerError):
    """The bytes do not say what was written."""


class ForeignSnapshot(LearnerError):
    """Sound bytes, but of another schema or network."""


class StaleSnapshot(LearnerError):
    """The delta's base is not the receiver's version."""


class UnknownVersion(LearnerError):
    """No version of this number can be put together from what is kept."""


class JudgeAway(LearnerError):
    """No verdict is to be had now."""
