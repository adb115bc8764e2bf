"""Any data set of the Hugging Face Hub: `task=hub/OWNER/NAME input=COLUMN label=COLUMN`."""

from calib_bench.tasks._nearest import own_data

TASK = own_data("Any data set of the Hub, as task=hub/OWNER/NAME", "That of the data set, see its page on the Hub.")
