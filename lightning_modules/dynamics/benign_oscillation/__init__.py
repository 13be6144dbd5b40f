"""Train a patch network at a large learning rate, and measure which features it learns while training oscillates.

Each point has three patches (`datamodules.tables.feature_noise`): a strong feature u, which is zero for some points, a
weak feature v, and noise. The network has two groups of m filters, w_+r and w_-r, which are applied to all patches x_p:

    f(x) = F_+ - F_-,    F_j(x) = (1/m) sum_r sum_p relu(<w_jr, x_p>)^2,    w_jr ~ N(0, I / d) initially.

SGD with batch size 1 and learning rate eta minimises (f(x) - y)^2, without a factor 1/2. It visits the points in a new
random order in each pass. As long as the strong feature dominates, s = y f follows the map s <- s (1 + a (1 - s))^2
with a = 4 eta ||u||^2 / m. For a <= 1, s converges to 1, and the weights stop changing. For 1 < a <= 1.598, that is,
for eta in about [m/4, 2m/5] / ||u||^2, s never converges. However, <w, u> stays bounded, which implies

    sum_t log(1 + a l_t) = O(1)    and thus    sum_t l_t >= c a sum_t l_t^2,    l = 1 - y f.

While s oscillates, sum_t l_t therefore grows with the number of steps t. Each step multiplies the filter components
along v by 1 + a l ||v||^2 / ||u||^2, so these components grow exponentially. After training with oscillation, a network
correctly classifies points that have only the weak feature. After training at a small learning rate, the accuracy on
these points is at chance level.

The paper assumes that training oscillates, that is, |1 - y f| >= delta at points with the strong feature (strong
points). The paper concludes that the weak feature contributes at least delta / 4 to y f. Both the assumption and the
conclusion are measured here. The measurement of oscillation starts at the first iteration with y f >= 1. The
measurement ends when the weak feature contributes at least delta / 4 in both classes, which is checked after every
training step. `test/oscillating_draws` is the fraction of the sampled strong points with |1 - y f| >= delta.
`test/oscillation_held_always` is the fraction of networks for which all sampled strong points satisfy this condition.
`test/oscillation_held` is the fraction of networks for which the condition holds in the mean, that is, sum l^2 >=
delta^2 T over T sampled strong points. The condition in the mean is sufficient for the argument above. Once the weak
feature is learned, the oscillation stops.

Many networks are trained at once, each with its own initial weights and its own training set. Metrics are means over
the networks whose weights are finite. `test/diverged` is the fraction of networks whose weights are not finite. Every
rank trains all networks, because a batch of one sample cannot be sharded.

The paper's full text was not available. The range of learning rates, the data and the network follow from the abstract,
the public reviews and a derivation. The following are choices of this project: three patches, filters that are shared
by all patches, reshuffling in each pass, the norms of the features, and the noise level.

Source: Lu, Wu, Yang and Zou, Benign Oscillation of Stochastic Gradient Descent with Large Learning Rate, ICLR 2024,
arXiv 2310.17074.
"""

from lightning_modules.dynamics.benign_oscillation.module import BenignOscillation as BenignOscillation
