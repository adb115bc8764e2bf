"""Where each metric comes from: keys of references.bib."""

REFERENCES: dict[str, tuple[str, ...]] = {
    "accuracy": ("hastie2009",),
    "log_loss": ("good1952",),
    "brier": ("brier1950",),
    "ece": ("naeini2015", "guo2017"),
    "ece_positive": ("naeini2015",),
    "adaptive_ece": ("nixon2019",),
    "classwise_ece": ("kull2019",),
    "smece": ("blasiok2023",),
    "smece_positive": ("blasiok2023",),
    "mce": ("naeini2015",),
    "debiased_squared_ece": ("kumar2019",),
    "mean_confidence": ("guo2017",),
    "mean_entropy": ("shannon1948",),
    "aurc": ("geifman2017",),
    "e_aurc": ("geifman2019",),
    "ece_null": ("brocker2007", "vaicenavicius2019"),
    "kappa": ("guo2017",),
}
