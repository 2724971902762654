"""The comparison in English."""

from __future__ import annotations

from fedwon.server.comparison.texts import Texts

ENGLISH = Texts(
    lang="en",
    looking="looking the images over",
    looked="looked over {lines} lines, {compared} of which can be compared",
    measuring="measuring what a round takes: {method}",
    planned="planned: {trials} trials a method, then {seeds} runs of {rounds} rounds each",
    tuning="searching for settings: {method}, trial {done} of {all}",
    tuned="the search for settings is done",
    running="training: {method}, run {seed}",
    run_done="run {seed} is done with all methods",
    leaving_out="training without {line}: {method}, run {seed}",
    left_out_done="training without {line}, run {seed}, is done",
    time_left="about {time} left",
    report_at="report: {path}",
    interrupted="interrupted; the report says what there is so far",
    go_on="the same command goes on from here",
    title="Is federated learning worth it for these lines?",
    subtitle="{data} · {lines} lines, {images} images, {classes} classes · {date}",
    answer="The answer",
    gain_tile="Gain over each line alone",
    gain_value="{gain} points",
    gain_note="with {method}; 95 % interval {low} to {high}",
    lines_tile="Line by line",
    lines_value="{better} of {all} better",
    lines_note="for sure, with {method}; {worse} worse, the others undecided",
    worst_tile="The worst line",
    worst_value="{before} → {after} %",
    worst_note="alone, and with {method}",
    unseen_tile="A line that never trained",
    unseen_value="{value} %",
    unseen_note="with {method}; {alone} % with the other lines' own models",
    not_measured="not measured",
    no_gain_yet="In this time not enough runs were finished to compare anything.",
    next_heading="What to do next",
    cautions_heading="Mind this",
    by_line_heading="What each line gets",
    by_line_note="Balanced accuracy on test images, in %: the share found of each class, every class counting alike. Mean "
    "of {seeds} runs.",
    methods_note="Each line alone shares nothing. FedAvg averages one model for all lines, with batch norm in it. FedBN averages all but the batch norm layers, which every line keeps for itself. FedWon averages one model that has no normalization.",
    differences_heading="What is better than what",
    differences_note="Differences in points, with 95 % intervals. An interval that touches zero decides nothing.",
    less="{first} less {second}",
    gain_over_alone="{method} less each line alone",
    better_by="better",
    worse_by="worse",
    undecided="undecided",
    unseen_heading="A line that is new",
    unseen_intro="Each of these lines was left out of the training and then tested. The methods that keep layers at the "
    "lines, and each line alone, have no model for such a line: it is served with the mean of the others' models.",
    cost_heading="What it costs",
    cost_intro="Measured on this machine with one line after the other; a weaker box takes longer in proportion. Memory "
    "is what a training step holds beside the program itself.",
    cost_columns=(
        "method",
        "a round at the slowest line",
        "sent by a line a round",
        "model, once",
        "memory of a step",
        "stays at the line",
    ),
    images_heading="The images",
    images_columns=(
        "line",
        "images",
        "for training",
        "for testing",
        "unreadable",
        "copies",
        "size",
        "brightness",
        "contrast",
    ),
    classes_heading="Images of each class",
    class_column="class",
    distance_heading="How far apart the lines are",
    distance_intro="How well a simple classifier tells from an image which of two lines it comes from (proxy A-distance): "
    "0, not at all; 2, always. Classes are weighed alike, so another mix of parts does not count.",
    how_heading="How this was computed",
    how=(
        "A third of each line's images, or those that it brings for testing, were set aside. Copies of one image, by "
        "decoded content, are never on both sides.",
        "Learning rate and gradient clipping of each method were searched for on validation images, with the same number "
        "of trials, space and sampler for every method. Test images were not opened for that.",
        "All methods then trained with the same seeds, splits and rounds. A difference is paired: same seeds, same test "
        "images. Its interval adds the spread over seeds (Student's t) and over images.",
        "The answer follows from the intervals by a fixed rule; two points or less count as no difference. Each interval "
        "holds for itself at 95 %: of twenty, one is expected to miss.",
        "Training here is short and the network small, so that it fits into the time. What is compared is the methods, "
        "not what a line can reach at best.",
    ),
    settings_heading="Settings that the search chose",
    settings_columns=("method", "learning rate", "clipping", "trials", "on validation images"),
    off="off",
    cut_heading="Left out for want of time",
    nothing_cut="Nothing.",
    line="line",
    mean="mean",
    worst="lowest",
    method="method",
    points="points",
    interval="95 % interval",
    listing=", ",
    made_by="Made by fedwon {version} in {time}; the figures are in report.json.",
    methods={
        "standalone": "each line alone",
        "fedavg": "FedAvg (batch norm)",
        "fedprox": "FedProx (batch norm)",
        "fedavg_gn": "FedAvg (group norm)",
        "fedavg_ln": "FedAvg (layer norm)",
        "fedbn": "FedBN",
        "silobn": "SiloBN",
        "fixbn": "FixBN",
        "fedwon": "FedWon",
    },
    method_notes={
        "nothing": "nothing: one model for all",
        "statistics": "batch statistics",
        "normalization": "its batch norm layers",
        "everything": "everything: nothing is shared",
    },
    headlines={
        "fedwon": "Yes: federate, with FedWon.",
        "fedwon_level": "Yes: federate, with FedWon.",
        "keep_batch_norm": "Yes: federate, and keep batch norm, with {method}.",
        "other_method": "Yes: federate, with {method}.",
        "undecided": "Yes: federate. Which method is best is not decided; begin with {method}.",
        "alone": "No: each line alone is enough.",
        "not_enough_data": "Not enough data to tell.",
        "not_enough_time": "Not decided yet: it needs more time.",
        "nothing_readable": "No image could be read.",
        "one_line": "There is one line only: nothing to federate.",
        "one_class": "There is one class only: nothing to tell apart.",
        "too_few": "Not enough data: too few images to learn from.",
        "no_shared_class": "The lines have no class in common.",
    },
    reasons={
        "fedwon": "It gains {gain} points over each line alone (95 % interval {low} to {high}), and is better than every "
        "other method that was tried.",
        "fedwon_level": "It gains {gain} points over each line alone (95 % interval {low} to {high}). No other method is "
        "ahead of it by two points or more, and it gives one model for all lines, also for new ones.",
        "keep_batch_norm": "{method} gains {gain} points over each line alone (95 % interval {low} to {high}). That "
        "FedWon does better on these images is not shown.",
        "other_method": "{method} gains {gain} points over each line alone (95 % interval {low} to {high}). That FedWon "
        "does better on these images is not shown.",
        "undecided": "{method} gains {gain} points over each line alone (95 % interval {low} to {high}) and did best on "
        "validation images, but the intervals between the methods do not decide.",
        "alone": "No method gains two points or more. The best is at {gain} points (95 % interval {low} to {high}).",
        "not_enough_data": "The best gain is {gain} points, but its interval, {low} to {high}, leaves both open. A gain "
        "of this size would show with about {factor} times as many test images.",
        "not_enough_time": "The runs that were finished in this time do not decide. Gain so far: {gain} points (95 % "
        "interval {low} to {high}).",
        "nothing_readable": "Every file failed to decode; the table below names some.",
        "one_line": "A federation needs two lines at least. Give each line a sub-folder of its own.",
        "one_class": "A classifier needs two classes at least, such as good and defect.",
        "too_few": "A line needs about {train} different images to train on and {test} to test with; fewer than two "
        "lines have them.",
        "no_shared_class": "Lines learn from each other only what both of them have. Do the class folders have the same "
        "names on every line?",
    },
    advice={
        "fedwon": "Run the two-week pilot of docs/poc.md with FedWon; its acceptance criteria can be taken from this "
        "page.",
        "fedwon_level": "Run the two-week pilot of docs/poc.md with FedWon, and FedBN beside it if every line always "
        "takes part.",
        "keep_batch_norm": "Run the two-week pilot of docs/poc.md with `method: {key}`: it is the same system. Try "
        "FedWon again where lines come and go, or where a box can take only one image at a time.",
        "other_method": "Run the two-week pilot of docs/poc.md with `method: {key}`: it is the same system.",
        "undecided": "Give it more time (`--budget 2h`, another `--out` folder) or more images, or run the pilot with "
        "two methods, one after the other.",
        "alone": "Keep each line's own model. Come back when a line is new, or has too few images of its own.",
        "not_enough_data": "Collect more images, of the rare classes first, and ask again.",
        "not_enough_time": "Give it more time: `--budget 2h` with another `--out` folder. The same command again goes "
        "on from here.",
        "nothing_readable": "Check the files: are they JPEG, PNG, BMP or TIFF, and whole?",
        "one_line": "See docs/compare.md for the layout: one folder a line, in each one folder a class.",
        "one_class": "Sort the images into one folder a class, the same names on every line.",
        "too_few": "Collect some dozens of images a line, of every class, and ask again.",
        "no_shared_class": "Name the class folders alike on every line, and ask again.",
    },
    cautions={
        "left_out_unreadable": "{line} is left out: none of its images can be read.",
        "left_out_few_images": "{line} is left out: it has too few images.",
        "left_out_one_class": "{line} is left out: it has images of one class only.",
        "unreadable": "{count} images cannot be read ({lines}).",
        "copies": "{count} images are copies of others on the same line ({lines}); each counts once.",
        "contradictions": "{count} images lie in two classes of the same line ({lines}): one of them is wrong.",
        "leaked": "{count} training images are also test images and were not trained on ({lines}).",
        "across": "{count} images are on more than one line ({lines}): are these really different lines?",
        "alike_names": "Class names that look like one class: {names}. Lines agree by name.",
        "lone_classes": "Only one line has images of: {classes}.",
        "few_tests": "Few test images: {count} times a line has fewer than five of a class ({classes}). Figures of single "
        "lines are rough.",
        "drawn": "There were more images than were looked at: each line is represented by a draw.",
        "exposure": "The lines differ in brightness ({low} to {high}) and contrast (by a factor of {ratio}). "
        "`images.standardize: each` takes that away for every method; compare with it (`--config`).",
        "losing_lines": "With {method} some lines do worse than alone, for sure: {lines}.",
        "still_rising": "Still improving when training ended: {methods}. More rounds (a larger `--budget`) may change the "
        "order.",
        "diverged": "{method}: {count} runs broke down and count as wrong throughout.",
        "interrupted": "Interrupted: this is what was there.",
        "cut_everything": "The time did not suffice to train anything.",
        "cut_trials": "Trials of settings: {done} a method in place of {full}.",
        "cut_seeds": "Runs of each method: {done} in place of {full}.",
        "cut_rounds": "Rounds of a run: {done} in place of {full}.",
        "cut_unseen": "Lines left out in turn: {done} in place of {full}.",
        "cut_images": "Training images of a line: {done} at most.",
    },
)
