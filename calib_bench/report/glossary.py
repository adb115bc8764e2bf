"""The words of reports, each with one sentence: pages show them, and docs/glossary.md lists them."""

GLOSSARY: dict[str, str] = {
    "beta": "The softmax inverse temperature that a model is trained with: its probabilities are softmax(beta z), z "
    "its logits.",
    "arm": "The trials that differ in nothing but the seed: one model, beta, objective and intervention, at its chosen "
    "rate.",
    "reference": "The arm that others are compared with, seed by seed: cross-entropy at beta = 1 unless reference= "
    "says otherwise.",
    "raw": "Of the predictions as they are, softmax(beta z), before any post-hoc calibration.",
    "repaired": "Of the predictions after temperature scaling, whose temperature is fitted on the calibration split.",
    "conf": "Confidence: the raw score minus the repaired one, the part that a temperature can give back.",
    "dyn": "Dynamics: the repaired score, the part that no temperature after training can change.",
    "delta_total": "The score of an arm minus that of the reference, exactly delta_conf + delta_dyn; of a loss, below "
    "0 is better.",
    "delta_conf": "By how much an arm differs from the reference in confidence, in the units of the score.",
    "delta_dyn": "By how much an arm differs from the reference in dynamics, in the units of the score.",
    "kappa": "The factor of overconfidence beta T*, T* the best temperature of the logits z: above 1 overconfident, "
    "below 1 underconfident.",
    "log_loss": "The mean of -log p of the right class, in nats; a uniform guess among K classes has log K.",
    "brier": "The mean squared distance between probabilities and the one-hot label, summed over classes: from 0 to 2.",
    "ece": "Expected calibration error: the mean gap between confidence and accuracy over bins of confidence, 15 "
    "unless said otherwise.",
    "ece_null": "The mean ECE that a perfectly calibrated model with these confidences would show on as many examples: "
    "it is not 0.",
    "auroc": "The chance that a right answer has more confidence than a wrong one; one half is no better than chance.",
    "augrc": "The share of examples that are answered, and wrongly, averaged over all shares answered; lower is "
    "better.",
    "lac_size": "The mean number of classes in a set that is made to hold the right class for 90% of examples; fewer "
    "is better.",
    "lr_rel": "The learning rate in units of the critical rate at initialization, 2 / lambda_max of plain gradient "
    "descent.",
    "lr_hom": "The learning rate times beta^(2/L) for SGD, beta^(1/L) for Adam, L the degree: in this unit one rate "
    "serves every beta.",
    "lr_eff": "The learning rate times beta^2: how fast the rescaled logits move while learning is lazy.",
    "degree": "The network's Euler degree L at initialization: its logits grow as s^L when all weights are scaled by "
    "s.",
    "trainability": "A change of repaired loss that is established at equal epochs, but neither at equal training loss "
    "nor at best epochs: speed.",
    "generalization": "A change of repaired loss that is established, with one sign, at equal epochs, at equal "
    "training loss and at best epochs.",
    "collapsed": "Of a seed: it ended near the score of guessing, or diverged, while others of its arm learned.",
    "established": "The 95% interval leaves out what is expected without an effect, and Holm's correction agrees.",
    "suggestive": "The 95% interval leaves out what is expected without an effect, but not after Holm's correction.",
    "equivalent": "The whole 95% interval lies within a margin of no effect: .01 of accuracy, or .01 nats.",
    "inconclusive": "The interval allows both an effect and none; it is no evidence that there is none.",
    "Holm": "Holm's correction raises the p-values of a table, so that one false finding among all its rows has a "
    "chance below 5%.",
}
