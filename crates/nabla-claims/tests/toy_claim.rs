//! A claim with numbers in closed form goes the whole way: run, save, read, report.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as tests

use std::path::Path;
use std::sync::Mutex;

use burn::tensor::Device;
use nabla_base::methods::Paper;
use nabla_base::progress::{NoProgress, ProgressSink};
use nabla_claims::plot::{LinePlot, Series};
use nabla_claims::report::{method_table_markdown, render_html, render_markdown};
use nabla_claims::{
    Bench, CELLS_FOLDER, Cell, Check, Claim, ClaimContext, ClaimError, ClaimResult, Commit,
    Measurement, Metric, ResultError, RunError, Source, Stage, Table, Task, Variant, Verdict,
    read_result, read_results, run_claim, run_claims, write_report,
};

/// Gradient descent on x²/2 with step η multiplies x by (1 − η): after k steps from x₀ = 1 + seed
/// exactly x₀ (1 − η)^k is left. The claim "0.5 beats 0.1" holds; "0.5 ends at zero" does not.
struct Quadratic;

const STEPS: i32 = 10;

const DISTANCE: Metric = Metric::lower("distance", "");
const GAIN: Metric = Metric::higher("gain", "dB");
const NUMBER: Metric = Metric::informative("steps", "");
const HALF: Variant = Variant::method("step 0.5");
const THIRD: Variant = Variant::ablation("step 0.3");
const TENTH: Variant = Variant::baseline("step 0.1");
const ONE: Task = Task::named("from 1");
const TWO: Task = Task::named("from 2");

impl Claim for Quadratic {
    fn slug(&self) -> &str {
        "rddm" // a slug of the list, so that the report finds its name
    }
    fn paper(&self) -> Option<Paper> {
        let title = "On <Quadratics> & Steps";
        Some(Paper::new(title, "A. Author", 2024, "2401.00001"))
    }
    fn statement(&self) -> &str {
        "Larger steps get *nearer* to the minimum."
    }
    fn criterion(&self) -> &str {
        "Step 0.5 ends nearer than step 0.1, and at zero."
    }
    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let metrics = [DISTANCE, GAIN, NUMBER];
        let mut table = Table::new(bench.seeds(), metrics, [HALF, THIRD, TENTH], [ONE, TWO])?;
        let mut points = Vec::new();
        for &seed in bench.seeds() {
            for (task, scale) in [(ONE, 1.0), (TWO, 2.0)] {
                for (variant, eta) in [(HALF, 0.5), (THIRD, 0.3), (TENTH, 0.1)] {
                    // A variant may lack a task.
                    if variant != THIRD || task == ONE {
                        points.push((task.clone(), scale, variant, eta, seed));
                    }
                }
            }
        }
        let found = bench.measure(
            &Stage::new("descent", &STEPS),
            &points,
            |(task, _, variant, _, seed)| Cell::of(task).variant(variant).seed(*seed),
            |(_, scale, _, eta, seed)| {
                let mut x = scale * (1.0 + *seed as f64);
                for _ in 0..STEPS {
                    x -= eta * x;
                }
                Ok(x)
            },
        )?;
        for ((task, scale, variant, _, seed), x) in points.iter().zip(found) {
            let start = scale * (1.0 + *seed as f64);
            table.record(task, variant, &DISTANCE, *seed, x)?;
            table.record(task, variant, &GAIN, *seed, 20.0 * (start / x).log10())?;
            table.record(task, variant, &NUMBER, *seed, f64::from(STEPS))?;
        }
        let mut plot = LinePlot::new("Descent", "step", "distance").log_y();
        for (variant, eta) in [(HALF, 0.5_f64), (TENTH, 0.1)] {
            let curve = (0..=STEPS).map(|k| [f64::from(k), (1.0 - eta).powi(k)]);
            plot = plot.with_series(Series::new(variant.name(), curve));
        }
        let nearer = table.compare(&ONE, &DISTANCE, &HALF, &TENTH)?.headline();
        let left = table.mean(&ONE, &HALF, &DISTANCE)?;
        let zero = Check::new(
            "step 0.5 ends at zero",
            left == 0.0,
            format!("{left:.3e} is left"),
        );
        Ok(Measurement::new(table, vec![nearer, zero])
            .with_plot(plot)
            .with_note("Ten steps leave 2^-10 of the start."))
    }
}

/// An experiment of another program is not measured by a version of Nabla.
#[test]
fn a_result_names_the_program_that_it_is_of() {
    let nabla = ClaimContext::new(Device::default(), &NoProgress);
    let own = run_claim(&Quadratic, &nabla).unwrap();
    assert_eq!(
        (&own.program[..], &own.version),
        ("Nabla", &nabla.source.version)
    );
    // As ever: what is not said is Nabla's.
    let text = own.to_json().unwrap();
    assert!(!text.contains("\"program\""), "{text}");
    let read: ClaimResult = serde_json::from_str(&text).unwrap();
    assert_eq!(read, own);

    let folder = tempfile::tempdir().unwrap();
    let source = Source {
        program: "my-optimizers".into(),
        version: "7.1.0".into(),
        // No checkout is there.
        commit: Commit::of_checkout(folder.path()),
    };
    assert_eq!(source.commit.hash, "unknown");
    let context = ClaimContext::new(Device::default(), &NoProgress).with_source(source.clone());
    let result = run_claim(&Quadratic, &context).unwrap();
    result.save(folder.path()).unwrap();
    let read = read_result(&folder.path().join("rddm.json")).unwrap();
    assert_eq!(
        (read.program, read.version, read.commit),
        (source.program, source.version, source.commit)
    );
    let report = render_markdown(&read_results(folder.path()).unwrap());
    assert!(
        report.contains("my-optimizers 7.1.0, commit unknown"),
        "{report}"
    );

    // Of any checkout, and whether it is as it was committed.
    let git = |arguments: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.args(["-c", "user.name=A", "-c", "user.email=a@b.c", "-C"]);
        let done = git.arg(folder.path()).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    };
    git(&["init", "-q"]);
    std::fs::write(folder.path().join("a.txt"), "a").unwrap();
    git(&["add", "a.txt"]);
    git(&["commit", "-q", "-m", "a"]);
    let clean = Commit::of_checkout(folder.path());
    assert_eq!(clean.hash.len(), 40);
    std::fs::write(folder.path().join("a.txt"), "b").unwrap();
    let dirty = Commit::of_checkout(folder.path());
    assert_eq!((dirty.hash, dirty.dirty), (clean.hash, true));
}

/// Breaks the contract in the way its name says.
struct Broken(&'static str);

impl Claim for Broken {
    fn slug(&self) -> &str {
        self.0
    }
    fn paper(&self) -> Option<Paper> {
        match self.0 {
            "no-paper" => None,
            _ => Quadratic.paper(),
        }
    }
    fn statement(&self) -> &str {
        ""
    }
    fn criterion(&self) -> &str {
        ""
    }
    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        match self.0 {
            "panics" => panic!("out of memory"),
            "fails" => Err(ClaimError::experiment("the loss is NaN")),
            "no-headline" => {
                let whole = Quadratic.run(bench)?;
                let checks = whole.checks.into_iter().map(|c| c.headline_if(false));
                Ok(Measurement::new(whole.table, checks.collect()))
            }
            "other-seeds" => {
                let other = ClaimContext::new(Device::default(), &NoProgress);
                let other = other.with_seeds(vec![7, 8, 9]);
                Quadratic.run(&Bench::new(self, &other))
            }
            "gap" => {
                let mut table = Table::new(bench.seeds(), [DISTANCE], [HALF], [ONE])?;
                table.record(&ONE, &HALF, &DISTANCE, bench.seeds()[0], 1.0)?;
                let check = Check::new("", true, "").headline();
                Ok(Measurement::new(table, vec![check]))
            }
            other => panic!("no such fault: {other}"),
        }
    }
}

fn context() -> ClaimContext<'static> {
    ClaimContext::new(Device::default(), &NoProgress)
}

/// The toy's result with all that depends on the machine and the hour replaced.
fn fixed_result() -> ClaimResult {
    let mut result = run_claim(&Quadratic, &context()).unwrap();
    result.device = "Test CPU, 2 threads".to_owned();
    result.seconds = 1.5;
    result.commit = Commit {
        hash: "0123456789abcdef0123".to_owned(),
        dirty: true,
    };
    result.date = "2026-01-02T03:04:05Z".to_owned();
    result.version = "0.0.0".to_owned();
    result
}

/// Compares with the committed file; `UPDATE_SNAPSHOTS=1` writes it instead.
fn assert_snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/snapshots")
        .join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(
        text == expected,
        "'{}' differs; look at the new text and, if it is right, run with UPDATE_SNAPSHOTS=1:\n{text}",
        path.display()
    );
}

/// Leaves out the drawings, which have tests of their own.
fn without_drawings(page: &str) -> String {
    let mut parts = page.split("<svg");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (drawing, rest) = part.split_once("</svg>").unwrap();
        let label = drawing
            .split("aria-label=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap();
        text.push_str(&format!("<svg {label}/>{rest}"));
    }
    text
}

#[test]
fn the_measured_numbers_are_the_closed_form() {
    let result = run_claim(&Quadratic, &context()).unwrap();
    // x₀ = 1, 2, 3 has mean 2 and spread 1.
    for (variant, factor) in [(HALF, 0.5_f64), (TENTH, 0.9)] {
        let s = result.measured.summary(&ONE, &variant, &DISTANCE).unwrap();
        let left = factor.powi(STEPS);
        assert!((s.mean - 2.0 * left).abs() < 1e-12 && (s.spread.unwrap() - left).abs() < 1e-12);
    }
    // The headline holds; that a detail does not is no matter of the verdict.
    assert_eq!(result.verdict, Verdict::Held);
    assert_eq!(
        result.checks.iter().map(|c| c.holds).collect::<Vec<_>>(),
        [true, false]
    );
    assert!(!result.device.is_empty() && !result.quick);
    assert!(
        result.date.ends_with('Z') && result.date.len() == 20,
        "{}",
        result.date
    );
}

#[test]
fn a_result_survives_its_file_and_the_file_is_stable() {
    let folder = tempfile::tempdir().unwrap();
    let result = fixed_result();
    let path = result.save(&folder.path().join("results")).unwrap();
    assert!(path.ends_with("results/rddm.json"));
    let read = read_result(&path).unwrap();
    // JSON text may round the last bit of a number; the text itself is the same again.
    assert_eq!(read.checks, result.checks);
    assert_eq!(read.plots.len(), 1);
    assert_eq!(read.to_json().unwrap(), result.to_json().unwrap());
    assert_snapshot("rddm.json", &std::fs::read_to_string(&path).unwrap());
}

#[test]
fn quick_runs_never_become_results() {
    let folder = tempfile::tempdir().unwrap();
    let quick = ClaimContext::quick(Device::default(), &NoProgress);
    let result = run_claim(&Quadratic, &quick).unwrap();
    assert_eq!(result.measured.seeds(), [0]);
    assert!(matches!(
        result.save(folder.path()),
        Err(ResultError::QuickIsNoResult(_))
    ));
    let claims: [&dyn Claim; 1] = [&Quadratic];
    let summary = run_claims(claims, &quick, Some(folder.path()), |_| {});
    assert!(summary.failures.is_empty() && summary.results[0].1.is_none());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // Saved by hand among the results, it is still none.
    let path = folder.path().join("rddm.json");
    result.save_quick(&path).unwrap();
    let error = read_result(&path).unwrap_err().to_string();
    assert!(
        error.contains("rddm.json") && error.contains("quick run"),
        "{error}"
    );
    let full = run_claim(&Quadratic, &context()).unwrap();
    assert!(matches!(
        full.save_quick(&path),
        Err(ResultError::NotQuick(_))
    ));
}

#[test]
fn too_few_or_repeated_seeds_are_an_error() {
    let error =
        |context: ClaimContext<'_>| run_claim(&Quadratic, &context).unwrap_err().to_string();
    assert_eq!(
        error(context().with_seeds(vec![1, 2])),
        "2 seeds were given; a full run needs at least 3"
    );
    assert_eq!(
        error(context().with_seeds(vec![1, 2, 1])),
        "seed 1 was given twice; the seeds have to differ"
    );
    let quick = ClaimContext::quick(Device::default(), &NoProgress).with_seeds(vec![]);
    assert!(matches!(
        run_claim(&Quadratic, &quick),
        Err(ClaimError::TooFewSeeds {
            given: 0,
            needed: 1
        })
    ));
}

/// An experiment's own seeds are the default, and they are checked like given ones.
#[test]
fn an_experiment_may_name_its_seeds() {
    struct Seeded(Vec<u64>);
    impl Claim for Seeded {
        fn slug(&self) -> &str {
            "rddm"
        }
        fn seeds(&self) -> Vec<u64> {
            self.0.clone()
        }
        fn statement(&self) -> &str {
            ""
        }
        fn criterion(&self) -> &str {
            ""
        }
        fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
            Quadratic.run(bench)
        }
    }
    let four = Seeded(vec![3, 1, 4, 9]);
    let seeds = |context: ClaimContext<'_>| {
        let result = run_claim(&four, &context).unwrap();
        result.measured.seeds().to_vec()
    };
    assert_eq!(seeds(context()), [3, 1, 4, 9]);
    assert_eq!(seeds(context().with_seeds(vec![5, 6, 7])), [5, 6, 7]);
    let quick = || ClaimContext::quick(Device::default(), &NoProgress);
    assert_eq!(seeds(quick()), [3]);
    assert_eq!(seeds(quick().with_seeds(vec![5, 6])), [5, 6]);
    let error = |own: &[u64], context: ClaimContext<'_>| {
        let error = run_claim(&Seeded(own.to_vec()), &context).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        error(&[1, 2], context()),
        "2 seeds were given; a full run needs at least 3"
    );
    assert_eq!(
        error(&[1, 2, 1], context()),
        "seed 1 was given twice; the seeds have to differ"
    );
    assert_eq!(
        error(&[], quick()),
        "0 seeds were given; a full run needs at least 1"
    );
}

#[test]
fn a_failure_costs_no_other_result() {
    let folder = tempfile::tempdir().unwrap();
    let faults = [
        "panics",
        "fails",
        "no-headline",
        "other-seeds",
        "gap",
        "no-paper",
    ]
    .map(Broken);
    let mut claims: Vec<&dyn Claim> = faults.iter().map(|fault| fault as &dyn Claim).collect();
    claims.insert(2, &Quadratic);
    let mut order = Vec::new();
    let summary = run_claims(claims, &context(), Some(folder.path()), |slug| {
        order.push(slug.to_owned())
    });
    assert_eq!(
        order,
        [
            "panics",
            "fails",
            "rddm",
            "no-headline",
            "other-seeds",
            "gap",
            "no-paper"
        ]
    );
    assert_eq!(summary.results.len(), 1);
    assert!(summary.results[0].1.as_ref().unwrap().is_file());
    let errors: Vec<String> = summary
        .failures
        .iter()
        .map(|(_, error)| error.to_string())
        .collect();
    assert_eq!(
        errors,
        [
            "the claim 'panics' stopped: out of memory",
            "the loss is NaN",
            "the claim 'no-headline' returned no headline check; a verdict needs at least one",
            "the claim 'other-seeds' measured seeds [7, 8, 9], but was given [0, 1, 2]",
            "the cell 'from 1' / 'step 0.5' / 'distance' has no value for seed 1; every cell needs one value per seed or none",
            "the claim 'no-paper' names no paper; a claim is what a paper says",
        ]
    );
    // A result that cannot be kept is reported, and still handed back.
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let claims: [&dyn Claim; 1] = [&Quadratic];
    let summary = run_claims(claims, &context(), Some(&file), |_| {});
    assert_eq!(summary.results.len(), 1);
    assert!(matches!(
        summary.failures[0].1,
        RunError::Result(ResultError::Io { .. })
    ));
}

/// A run that stops in the middle loses one cell: the next one measures the rest, and a finished run leaves
/// nothing beside its result.
#[test]
fn an_interrupted_run_goes_on_and_cleans_up() {
    /// Fails at the last cell, once.
    struct Interrupted(Mutex<bool>);
    impl Claim for Interrupted {
        fn slug(&self) -> &str {
            "adamp"
        }
        fn statement(&self) -> &str {
            ""
        }
        fn criterion(&self) -> &str {
            ""
        }
        fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
            let last = bench.seeds().last();
            let found = bench.measure(
                &Stage::new("one number", &()),
                bench.seeds(),
                |&seed| Cell::of(&ONE).seed(seed),
                |seed| {
                    // The lock is given back before the panic, which would poison it.
                    let breaks = Some(seed) == last && std::mem::take(&mut *self.0.lock().unwrap());
                    assert!(!breaks, "the power is gone");
                    Ok((1.0 + *seed as f64).sqrt())
                },
            )?;
            let mut table = Table::new(bench.seeds(), [DISTANCE], [HALF], [ONE])?;
            for (seed, value) in bench.seeds().iter().zip(found) {
                table.record(&ONE, &HALF, &DISTANCE, *seed, value)?;
            }
            let check = Check::new("it runs", true, "").headline();
            Ok(Measurement::new(table, vec![check]))
        }
    }
    #[derive(Default)]
    struct Notes(Mutex<Vec<String>>);
    impl ProgressSink for Notes {
        fn begin(&self, _stage: &str, _steps: u64) {}
        fn advance(&self, _steps: u64) {}
        fn note(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let claim = Interrupted(Mutex::new(true));
    let claims: [&dyn Claim; 1] = [&claim];
    let notes = Notes::default();
    let context = ClaimContext::new(Device::default(), &notes);
    let first = run_claims(claims, &context, Some(folder.path()), |_| {});
    assert_eq!((first.results.len(), first.failures.len()), (0, 1));
    let cells = folder.path().join(CELLS_FOLDER);
    assert_eq!(std::fs::read_dir(cells.join("adamp")).unwrap().count(), 2);
    let second = run_claims(claims, &context, Some(folder.path()), |_| {});
    let (result, path) = &second.results[0];
    assert!(path.is_some() && !cells.exists());
    assert_eq!(
        *notes.0.lock().unwrap(),
        ["adamp: 2 cells are those of a run that did not finish"]
    );
    let values = result.measured.values(&ONE, &HALF, &DISTANCE).unwrap();
    assert_eq!(values, [1.0, 2_f64.sqrt(), 3_f64.sqrt()]);
}

/// Results of before, whose checks were all headlines and whose verdicts could be 'in part', are read.
#[test]
fn the_format_before_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rddm.json");
    fixed_result().save(folder.path()).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().filter(|line| !line.contains("\"headline\""));
    let old = lines.collect::<Vec<_>>().join("\n");
    let old = old.replace("\"format\": 2", "\"format\": 1");
    let old = old.replace("\"verdict\": \"held\"", "\"verdict\": \"held_in_part\"");
    std::fs::write(&path, old).unwrap();
    let read = read_result(&path).unwrap();
    assert!(read.checks.iter().all(|check| check.headline));
    assert_eq!(read.verdict, Verdict::NotHeld);
    assert_eq!(read.measured, fixed_result().measured);
    // Written again it is in the present format.
    read.save(folder.path()).unwrap();
    assert_eq!(read_result(&path).unwrap(), read);
}

#[test]
fn malformed_files_are_named_and_hide_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path();
    let good = fixed_result();
    good.save(results).unwrap();
    let text = good.to_json().unwrap();
    let with = |from: &str, to: &str| {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        changed
    };
    let bad = [
        ("empty.json", String::new(), "is not a claim result"),
        ("list.json", "[1, 2]".to_owned(), "is not a claim result"),
        (
            "other.json",
            "{\"hello\": 1}".to_owned(),
            "is not a claim result",
        ),
        (
            "truncated.json",
            text[..text.len() / 2].to_owned(),
            "is not a claim result",
        ),
        (
            "renamed.json",
            text.clone(),
            "it is the result of 'rddm', expected 'renamed'",
        ),
        (
            "format.json",
            with("\"format\": 2", "\"format\": 9"),
            "its format is 9, expected 1 to 2",
        ),
        (
            "flattered.json",
            with("\"verdict\": \"held\"", "\"verdict\": \"not_held\""),
            "it is the result of",
        ),
    ];
    for (name, text, _) in &bad {
        std::fs::write(results.join(name), text).unwrap();
    }
    std::fs::write(results.join("notes.txt"), "not read").unwrap();
    let found = read_results(results).unwrap();
    assert_eq!(found.results.len(), 1);
    assert_eq!(found.problems.len(), bad.len());
    for (name, _, reason) in &bad {
        let hit = found
            .problems
            .iter()
            .map(ToString::to_string)
            .find(|e| e.contains(name));
        let error = hit.unwrap_or_else(|| panic!("no problem names {name}"));
        assert!(error.contains(reason), "{error}");
    }
    let (markdown, html) = (results.join("RESULTS.md"), results.join("r.html"));
    let reported = write_report(results, &markdown, Some(&html)).unwrap();
    assert_eq!(reported.problems.len(), bad.len());
    for file in [&markdown, &html] {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.contains("truncated.json") && text.contains("RDDM"));
    }
    // The page is written only if it is asked for.
    std::fs::remove_file(&html).unwrap();
    write_report(results, &markdown, None).unwrap();
    assert!(!html.exists());
    // A verdict that its checks do not support.
    let flattered = with("\"holds\": true", "\"holds\": false");
    std::fs::write(results.join("rddm.json"), flattered).unwrap();
    let error = read_result(&results.join("rddm.json"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("its verdict 'held' does not follow from its checks"),
        "{error}"
    );
    // No folder at all holds nothing; a file in its place is an error.
    assert!(
        read_results(&results.join("nowhere"))
            .unwrap()
            .results
            .is_empty()
    );
    assert!(read_results(&results.join("notes.txt")).is_err());
}

#[test]
fn reports_are_the_committed_ones() {
    let folder = tempfile::tempdir().unwrap();
    fixed_result().save(folder.path()).unwrap();
    let found = read_results(folder.path()).unwrap();
    assert_snapshot("RESULTS.md", &render_markdown(&found));
    let page = render_html(&found).unwrap();
    assert_snapshot("results.html", &without_drawings(&page));
    // Three metrics, for the groups with and those without all variants, and one curve are drawn, and
    // nothing is loaded from elsewhere.
    assert_eq!(page.matches("<svg").count(), 7);
    for reference in ["src=", "@import", "url(", "<link", "<script"] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(page.contains("On &lt;Quadratics&gt; &amp; Steps"));
    if let Some(path) = std::env::var_os("SHOW_REPORT") {
        std::fs::write(path, &page).unwrap();
    }
    let table = method_table_markdown(&found);
    assert!(
        table
            .lines()
            .any(|l| l.starts_with("| RDDM |") && l.ends_with("| held |"))
    );
}

#[test]
fn progress_is_passed_on() {
    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);
    impl ProgressSink for Recorder {
        fn begin(&self, stage: &str, steps: u64) {
            self.0.lock().unwrap().push(format!("{stage} {steps}"));
        }
        fn advance(&self, steps: u64) {
            self.0.lock().unwrap().push(format!("+{steps}"));
        }
        fn note(&self, _line: &str) {}
    }
    let recorder = Recorder::default();
    run_claim(&Quadratic, &ClaimContext::new(Device::default(), &recorder)).unwrap();
    assert_eq!(
        *recorder.0.lock().unwrap(),
        ["descent 15"]
            .into_iter()
            .chain(["+1"; 15])
            .collect::<Vec<_>>()
    );
}
