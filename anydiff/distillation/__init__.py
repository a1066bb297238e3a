r"""Distillation: few steps in place of many, for any model, by one identity.

With x_t fixed, to name other data is to name other noise,

.. math:: x_t = \alpha_t x_0^* + \sigma_t \epsilon^*, \qquad
    \epsilon^* = (x_t - \alpha_t x_0^*) / \sigma_t,

so that ``student.loss(x0*, t, noise=eps*)`` trains a student of any prediction, weighting and space
towards any target :math:`x_0^*`. The methods differ in who names it, and that is a predictor made of
predictors, as a guidance is:

    known(x0)                               the data themselves: plain diffusion
    merged(teacher, times, n)               n steps of the teacher as one: progressive distillation
    merged(teacher, times, len(times) - 1)  all of them: Luhman & Luhman
    merged(classifier_free(...), times, n)  guidance folded in
    consistent(teacher, student, nearer)    the student's own answer, one step of the teacher nearer to
                                            the data: consistency distillation
    consistent(known(x0), student, nearer)  one step along the data's own line: consistency training

:class:`Distillation` is such a loss, with the signature of :meth:`GaussianDiffusion.loss`.
"""

from anydiff.distillation.objective import Distillation, student
from anydiff.distillation.targets import Closer, consistent, known, merged

__all__ = ["Closer", "Distillation", "consistent", "known", "merged", "student"]
