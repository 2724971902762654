"""All words of a comparison, as a typed table: a language is one value of `Texts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "ja"]


@dataclass(frozen=True)
class Texts:
    """One language. What stands in braces is filled in; a test holds that all languages have the same.

    Attributes:
        methods: names by method.
        method_notes: what each keeps where, in a few words.
        headlines: the answer, by `verdict.Code` or `facts.Obstacle`.
        reasons: why, by the same.
        advice: what to do next, by the same.
        cautions: by the code of the caution.
    """

    lang: Language
    # while it works
    looking: str
    looked: str
    measuring: str
    planned: str
    tuning: str
    tuned: str
    running: str
    run_done: str
    leaving_out: str
    left_out_done: str
    time_left: str
    report_at: str
    interrupted: str
    go_on: str
    # the page
    title: str
    subtitle: str
    answer: str
    gain_tile: str
    gain_note: str
    lines_tile: str
    lines_value: str
    lines_note: str
    worst_tile: str
    worst_value: str
    worst_note: str
    unseen_tile: str
    unseen_value: str
    unseen_note: str
    not_measured: str
    next_heading: str
    cautions_heading: str
    by_line_heading: str
    by_line_note: str
    differences_heading: str
    differences_note: str
    less: str
    gain_over_alone: str
    better_by: str
    worse_by: str
    undecided: str
    unseen_heading: str
    unseen_intro: str
    cost_heading: str
    cost_intro: str
    cost_columns: tuple[str, ...]
    images_heading: str
    images_columns: tuple[str, ...]
    classes_heading: str
    class_column: str
    distance_heading: str
    distance_intro: str
    how_heading: str
    how: tuple[str, ...]
    settings_heading: str
    settings_columns: tuple[str, ...]
    off: str
    cut_heading: str
    nothing_cut: str
    line: str
    mean: str
    worst: str
    method: str
    points: str
    interval: str
    listing: str
    made_by: str
    methods: Mapping[str, str]
    method_notes: Mapping[str, str]
    headlines: Mapping[str, str]
    reasons: Mapping[str, str]
    advice: Mapping[str, str]
    cautions: Mapping[str, str]


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
    gain_note="points; 95 % interval {low} to {high}",
    lines_tile="Line by line",
    lines_value="{better} better, {worse} worse",
    lines_note="for sure, of {all}; the others are undecided",
    worst_tile="The worst line",
    worst_value="{before} → {after} %",
    worst_note="alone, and with {method}",
    unseen_tile="A line that never trained",
    unseen_value="{value} %",
    unseen_note="with {method}; {alone} % with the other lines' own models",
    not_measured="not measured",
    next_heading="What to do next",
    cautions_heading="Mind this",
    by_line_heading="What each line gets",
    by_line_note="Balanced accuracy on test images, in %: the share found of each class, every class counting alike. Mean "
    "of {seeds} runs.",
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
    cost_columns=("method", "a round at the slowest line", "sent by a line a round", "model, once", "memory of a step",
                  "stays at the line"),
    images_heading="The images",
    images_columns=("line", "images", "for training", "for testing", "unreadable", "copies", "size", "brightness",
                    "contrast"),
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
        "fedavg": "FedAvg, batch norm",
        "fedprox": "FedProx, batch norm",
        "fedavg_gn": "FedAvg, group norm",
        "fedavg_ln": "FedAvg, layer norm",
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

JAPANESE = Texts(
    lang="ja",
    looking="画像を調べています",
    looked="{lines} ラインを調べました（比較できるのは {compared} ライン）",
    measuring="1ラウンドの所要時間を測っています: {method}",
    planned="計画: 手法ごとに試行 {trials} 回、その後 {rounds} ラウンドの学習を {seeds} 回",
    tuning="設定を探しています: {method}、試行 {done} / {all}",
    tuned="設定の探索が終わりました",
    running="学習中: {method}、{seed} 回目",
    run_done="{seed} 回目の学習が全手法で終わりました",
    leaving_out="{line} を除いて学習中: {method}、{seed} 回目",
    left_out_done="{line} を除いた学習の {seed} 回目が終わりました",
    time_left="残り約 {time}",
    report_at="報告書: {path}",
    interrupted="中断しました。報告書にはここまでの結果があります",
    go_on="同じコマンドで続きから再開します",
    title="これらのラインで連合学習は役に立つか",
    subtitle="{data} · {lines} ライン、画像 {images} 枚、{classes} クラス · {date}",
    answer="結論",
    gain_tile="各ライン単独に比べた向上",
    gain_note="ポイント。95 % 信頼区間 {low} ~ {high}",
    lines_tile="ラインごと",
    lines_value="向上 {better}、低下 {worse}",
    lines_note="確かなもの、全 {all} ライン中。残りは判定できません",
    worst_tile="最も弱いライン",
    worst_value="{before} → {after} %",
    worst_note="単独と、{method}",
    unseen_tile="学習に参加していないライン",
    unseen_value="{value} %",
    unseen_note="{method}。他ラインの単独モデルでは {alone} %",
    not_measured="未測定",
    next_heading="次にすること",
    cautions_heading="注意点",
    by_line_heading="各ラインの結果",
    by_line_note="テスト画像でのバランス精度（%）: クラスごとの正解率を、どのクラスも同じ重みで平均した値。{seeds} 回の学習"
    "の平均。",
    differences_heading="手法の優劣",
    differences_note="差（ポイント）と 95 % 信頼区間。区間が 0 を含むときは判定できません。",
    less="{first} − {second}",
    gain_over_alone="{method} − 各ライン単独",
    better_by="優位",
    worse_by="劣位",
    undecided="判定できず",
    unseen_heading="新しいライン",
    unseen_intro="これらのラインを学習から除き、その後テストしました。層をラインに残す手法と各ライン単独には、新しいライン用の"
    "モデルがないため、他ラインのモデルの平均を使います。",
    cost_heading="コスト",
    cost_intro="この計算機でラインを順に実行して測った値です。性能の低い端末では、その分長くかかります。メモリは、プログラム"
    "本体のほかに学習1ステップが使う量です。",
    cost_columns=("手法", "1ラウンド（最も遅いライン）", "1ラインの送信量 / ラウンド", "モデル（初回）", "1ステップのメモリ",
                  "ラインに残るもの"),
    images_heading="画像",
    images_columns=("ライン", "画像数", "学習用", "テスト用", "読めない", "重複", "サイズ", "明るさ", "コントラスト"),
    classes_heading="クラスごとの画像数",
    class_column="クラス",
    distance_heading="ライン間の違い",
    distance_intro="画像だけから、2 つのうちどちらのラインかを単純な分類器がどれだけ当てられるか(proxy A-distance)。"
    "0 は全く見分けられず、2 は常に見分けられます。クラスの重みをそろえているので、部品の構成比の違いは含みません。",
    how_heading="計算方法",
    how=(
        "各ラインの画像の 3 分の 1（テスト用が用意されていればそれ）を別にしました。復号した内容が同じ画像が、学習側とテスト側"
        "に分かれることはありません。",
        "各手法の学習率と勾配クリッピングは、検証画像で探しました。試行回数、探索範囲、探索方法は全手法で同じです。テスト画像は"
        "使っていません。",
        "その後、全手法を同じ乱数、分割、ラウンド数で学習しました。差は対応のある比較（同じ乱数、同じテスト画像）で、区間は乱数"
        "によるばらつき（t 分布）と画像によるばらつきを合わせたものです。",
        "結論は、区間から決まった規則で導きます。2 ポイント以内は差がないとみなします。区間はそれぞれ 95 % で、20 個に 1 個は"
        "外れると見込まれます。",
        "時間内に収めるため、学習は短く、ネットワークは小さくしています。比べているのは手法であり、ラインの最高性能ではありません。",
    ),
    settings_heading="探索で選ばれた設定",
    settings_columns=("手法", "学習率", "クリッピング", "試行", "検証画像での値"),
    off="なし",
    cut_heading="時間の都合で省いたもの",
    nothing_cut="なし。",
    line="ライン",
    mean="平均",
    worst="最低",
    method="手法",
    points="ポイント",
    interval="95 % 信頼区間",
    listing="、",
    made_by="fedwon {version} が {time} で作成。数値は report.json にあります。",
    methods={
        "standalone": "各ライン単独",
        "fedavg": "FedAvg（バッチ正規化）",
        "fedprox": "FedProx（バッチ正規化）",
        "fedavg_gn": "FedAvg（グループ正規化）",
        "fedavg_ln": "FedAvg（レイヤー正規化）",
        "fedbn": "FedBN",
        "silobn": "SiloBN",
        "fixbn": "FixBN",
        "fedwon": "FedWon",
    },
    method_notes={
        "nothing": "なし（全ライン共通の 1 モデル）",
        "statistics": "バッチ統計量",
        "normalization": "バッチ正規化の層",
        "everything": "すべて（共有しない）",
    },
    headlines={
        "fedwon": "はい。FedWon での連合学習を勧めます。",
        "fedwon_level": "はい。FedWon での連合学習を勧めます。",
        "keep_batch_norm": "はい。ただしバッチ正規化を残し、{method} での連合学習を勧めます。",
        "other_method": "はい。{method} での連合学習を勧めます。",
        "undecided": "はい。連合学習を勧めます。最良の手法は判定できず、まず {method} から始めてください。",
        "alone": "いいえ。各ライン単独で十分です。",
        "not_enough_data": "判断にはデータが足りません。",
        "not_enough_time": "まだ判断できません。時間が足りません。",
        "nothing_readable": "読める画像がありません。",
        "one_line": "ラインが 1 つだけです。連合学習の対象になりません。",
        "one_class": "クラスが 1 つだけです。見分けるものがありません。",
        "too_few": "データが足りません。学習できる枚数がありません。",
        "no_shared_class": "ラインに共通のクラスがありません。",
    },
    reasons={
        "fedwon": "各ライン単独より {gain} ポイント向上し（95 % 信頼区間 {low} ~ {high}）、試した他のどの手法よりも優れて"
        "います。",
        "fedwon_level": "各ライン単独より {gain} ポイント向上します（95 % 信頼区間 {low} ~ {high}）。2 ポイント以上優る"
        "手法はなく、新しいラインを含む全ラインに 1 つのモデルを使えます。",
        "keep_batch_norm": "{method} は各ライン単独より {gain} ポイント向上します（95 % 信頼区間 {low} ~ {high}）。"
        "この画像で FedWon が優るとは言えません。",
        "other_method": "{method} は各ライン単独より {gain} ポイント向上します（95 % 信頼区間 {low} ~ {high}）。この画像で "
        "FedWon が優るとは言えません。",
        "undecided": "{method} は各ライン単独より {gain} ポイント向上し（95 % 信頼区間 {low} ~ {high}）、検証画像では最良"
        "でしたが、手法間の区間では優劣を判定できません。",
        "alone": "2 ポイント以上向上する手法はありません。最良の手法で {gain} ポイントです（95 % 信頼区間 {low} ~ {high}）。",
        "not_enough_data": "最良の向上は {gain} ポイントですが、区間 {low} ~ {high} ではどちらとも言えません。この大きさの"
        "差を示すには、約 {factor} 倍のテスト画像が必要です。",
        "not_enough_time": "この時間に終わった学習では判断できません。ここまでの向上: {gain} ポイント（95 % 信頼区間 {low} ~ "
        "{high})。",
        "nothing_readable": "すべてのファイルの復号に失敗しました。下の表に例があります。",
        "one_line": "連合学習には 2 ライン以上が必要です。ラインごとにフォルダを分けてください。",
        "one_class": "分類には、良品と不良品のように 2 クラス以上が必要です。",
        "too_few": "1 ラインに、学習用に異なる画像が約 {train} 枚、テスト用に {test} 枚必要です。それを満たすラインが 2 つ"
        "ありません。",
        "no_shared_class": "ラインが互いに学べるのは、両方にあるクラスだけです。クラスのフォルダ名は全ラインで同じですか。",
    },
    advice={
        "fedwon": "docs/poc.ja.md の 2 週間の試行を FedWon で行ってください。合格基準はこのページの値から決められます。",
        "fedwon_level": "docs/poc.ja.md の 2 週間の試行を FedWon で行ってください。全ラインが常に参加するなら FedBN も並べて"
        "試してください。",
        "keep_batch_norm": "docs/poc.ja.md の 2 週間の試行を `method: {key}` で行ってください。システムは同じです。ラインの"
        "出入りがある場合や、端末が 1 枚ずつしか学習できない場合は、FedWon も試してください。",
        "other_method": "docs/poc.ja.md の 2 週間の試行を `method: {key}` で行ってください。システムは同じです。",
        "undecided": "時間（`--budget 2h`、別の `--out` フォルダ）か画像を増やすか、2 つの手法で順に試行してください。",
        "alone": "各ラインのモデルを使い続けてください。新しいラインや画像の少ないラインができたら、もう一度調べてください。",
        "not_enough_data": "まれなクラスを優先して画像を集め、もう一度調べてください。",
        "not_enough_time": "時間を増やしてください: 別の `--out` フォルダで `--budget 2h`。同じコマンドなら続きから再開します。",
        "nothing_readable": "ファイルを確かめてください。JPEG、PNG、BMP、TIFF で、壊れていませんか。",
        "one_line": "フォルダの形は docs/compare.md にあります: ラインごとに 1 つ、その中にクラスごとに 1 つ。",
        "one_class": "画像をクラスごとのフォルダに、全ラインで同じ名前で分けてください。",
        "too_few": "各ラインの全クラスの画像を数十枚集め、もう一度調べてください。",
        "no_shared_class": "全ラインでクラスのフォルダ名をそろえ、もう一度調べてください。",
    },
    cautions={
        "left_out_unreadable": "{line} は除きました。読める画像がありません。",
        "left_out_few_images": "{line} は除きました。画像が少なすぎます。",
        "left_out_one_class": "{line} は除きました。クラスが 1 つしかありません。",
        "unreadable": "読めない画像が {count} 枚あります（{lines}）。",
        "copies": "同じラインの中に重複画像が {count} 枚あります（{lines}）。1 枚として数えます。",
        "contradictions": "同じラインで 2 つのクラスに入っている画像が {count} 枚あります（{lines}）。どちらかが誤りです。",
        "leaked": "テスト画像でもある学習画像が {count} 枚あり、学習から除きました（{lines}）。",
        "across": "複数のラインにある画像が {count} 枚あります（{lines}）。本当に別のラインですか。",
        "alike_names": "同じクラスと思われる名前: {names}。クラスは名前で対応づけられます。",
        "lone_classes": "1 つのラインにしかないクラス: {classes}。",
        "few_tests": "テスト画像が少ないところがあります: クラスあたり 5 枚未満が {count} か所（{classes}）。ライン単位の値は"
        "目安です。",
        "drawn": "画像が多いため、各ラインから抜き出して調べました。",
        "exposure": "ラインの明るさ（{low} ~ {high}）とコントラスト（{ratio} 倍）が違います。`images.standardize: each` は"
        "どの手法でもこの違いを取り除きます。`--config` で試してください。",
        "losing_lines": "{method} では、単独より確かに悪くなるラインがあります: {lines}。",
        "still_rising": "学習の終わりでもまだ向上していました: {methods}。ラウンドを増やす（`--budget` を大きくする）と順位が"
        "変わることがあります。",
        "diverged": "{method}: {count} 回の学習が発散し、すべて不正解として数えました。",
        "interrupted": "中断されました。ここまでの結果です。",
        "cut_everything": "学習を行う時間がありませんでした。",
        "cut_trials": "設定の試行: 手法ごとに {done} 回（{full} 回のところ）。",
        "cut_seeds": "各手法の学習: {done} 回（{full} 回のところ）。",
        "cut_rounds": "学習のラウンド数: {done}（{full} のところ）。",
        "cut_unseen": "除いて調べたライン: {done}（{full} のところ）。",
        "cut_images": "1 ラインの学習画像: 最大 {done} 枚。",
    },
)

LANGUAGES: Mapping[Language, Texts] = {"en": ENGLISH, "ja": JAPANESE}
