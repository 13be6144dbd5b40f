"""Train a patch network at a learning rate so large that it oscillates, and see what it learns thereby.

Points have a strong feature u, which some lack, a weak feature v, which all have, and noise, a patch each
(`datamodules.tables.feature_noise`). Two groups of m filters over the patches give

    f(x) = F_+ - F_-,    F_j(x) = (1/m) sum_r sum_p relu(<w_jr, x_p>)^2,    w_jr ~ N(0, I / d) at first,

and SGD with batches of one point, in a new order in each pass, descends on (f(x) - y)^2, without a factor 1/2. As long
as the strong feature decides, s = y f follows the map s <- s (1 + a (1 - s))^2 with a = 4 eta ||u||^2 / m. For a <= 1
it settles at 1 and training ends; for 1 < a <= 1.598, which is eta in [m/4, 2m/5] / ||u||^2, it never settles. But
<w, u> stays bounded, so that

    sum_t log(1 + a l_t) = O(1)    and thus    sum_t l_t >= c a sum_t l_t^2,    l = 1 - y f,

and the weak filters, which are multiplied by 1 + a l ||v||^2 / ||u||^2 each time, grow exponentially while it
oscillates. A network trained so is right on points that have the weak feature alone; one trained at a small rate
guesses.

The paper assumes the oscillation, |1 - y f| >= delta at strong points, and concludes that the weak feature contributes
delta / 4 or more to y f. Here both are measured, from the first y f >= 1 on and until the contribution is there in both
classes (looked at after every training step): how many draws fulfil the condition (`test/oscillating_draws`), the
networks for which all of them do (`test/oscillation_held_always`), and those for which it holds in the mean, sum l^2
>= delta^2 T, which is all that the argument above uses (`test/oscillation_held`). Once the weak feature is learned it
stops the oscillation.

Many networks are trained at once, each from a start of its own on a set of its own. Metrics are means over those whose
weights are finite; `test/diverged` is the fraction of the others. Several processes all train all networks, as there is
nothing to share in a batch of one.

The full text was not at hand: the window, the data and the network follow from the abstract, the public reviews and a
derivation; three patches, filters shared by all patches, new orders, the norms and the strength of noise are this
project's choices.

Source: Lu, Wu, Yang and Zou, Benign Oscillation of Stochastic Gradient Descent with Large Learning Rate, ICLR 2024,
arXiv 2310.17074.
"""

from lightning_modules.dynamics.benign_oscillation.module import BenignOscillation as BenignOscillation
