"""Train a patch network at a large learning rate, so that training oscillates, and measure which features the network
learns.

Each point has three patches (`datamodules.tables.feature_noise`): a strong feature u, which is zero for some points, a
    weak feature v, and noise. Two groups of m filters over the patches give

    f(x) = F_+ - F_-,    F_j(x) = (1/m) sum_r sum_p relu(<w_jr, x_p>)^2,    w_jr ~ N(0, I / d) initially.

SGD with batch size 1, in a new order in each pass, minimises (f(x) - y)^2, without a factor 1/2. As long as the strong
feature dominates, s = y f follows the map s <- s (1 + a (1 - s))^2 with a = 4 eta ||u||^2 / m. For a <= 1, s converges
to 1 and training ends. For 1 < a <= 1.598, or eta in [m/4, 2m/5] / ||u||^2, s never converges. But <w, u> stays
bounded, which implies

    sum_t log(1 + a l_t) = O(1)    and thus    sum_t l_t >= c a sum_t l_t^2,    l = 1 - y f.

Each step multiplies the weak filters by 1 + a l ||v||^2 / ||u||^2. While s oscillates, these filters therefore grow
exponentially. After training with oscillation, a network is correct on points that have only the weak feature. After
training at a small learning rate, a network is at chance on these points.

The paper assumes oscillation, |1 - y f| >= delta at strong points, and concludes that the weak feature contributes
at least delta / 4 to y f. Assumption and conclusion are measured here, from the first iteration with y f >= 1 until
both classes have this contribution, which is checked after every training step. `test/oscillating_draws` is the
fraction of sampled strong points that satisfy the condition. `test/oscillation_held_always` is the fraction of networks
for which all sampled strong points satisfy the condition. `test/oscillation_held` is the fraction of networks for which
the condition holds in the mean, sum l^2 >= delta^2 T. This is sufficient for the argument above. Once the weak feature
is learned, the oscillation stops.

Many networks are trained at once, each with its own initial weights and its own training set. Metrics are means over
the networks with finite weights. `test/diverged` is the fraction of networks without finite weights. Every rank trains
all networks, because a batch of one sample cannot be sharded.

The paper's full text was not available: the window of learning rates, the data and the network follow from the
abstract, the public reviews and a derivation. Three patches, filters shared by all patches, reshuffling, the norms and
the noise level are choices of this project.

Source: Lu, Wu, Yang and Zou, Benign Oscillation of Stochastic Gradient Descent with Large Learning Rate, ICLR 2024,
arXiv 2310.17074.
"""

from lightning_modules.dynamics.benign_oscillation.module import BenignOscillation as BenignOscillation
