//! Linear systems through the program.

use std::fmt::Write;

use crate::desk::Desk;

/// The negative Laplacian of a square with `n` cells a side, one triangle, and a right side.
fn poisson(n: usize) -> (String, String) {
    let mut entries = Vec::new();
    for row in 0..n * n {
        entries.push((row, row, 4.0));
        if row % n > 0 {
            entries.push((row, row - 1, -1.0));
        }
        if row >= n {
            entries.push((row, row - n, -1.0));
        }
    }
    let mut matrix = format!(
        "%%MatrixMarket matrix coordinate real symmetric\n{0} {0} {1}\n",
        n * n,
        entries.len()
    );
    for (row, column, value) in entries {
        writeln!(matrix, "{} {} {value}", row + 1, column + 1).unwrap();
    }
    let mut b = format!("%%MatrixMarket matrix array real general\n{} 1\n", n * n);
    for i in 0..n * n {
        writeln!(b, "{}", (1.7 * i as f64).sin()).unwrap();
    }
    (matrix, b)
}

fn desk(n: usize) -> Desk {
    let desk = Desk::empty();
    let (matrix, b) = poisson(n);
    desk.put("A.mtx", &matrix);
    desk.put("b.mtx", &b);
    desk
}

fn numbers(text: &str) -> Vec<f64> {
    text.lines()
        .skip(2)
        .map(|line| line.parse().unwrap())
        .collect()
}

#[test]
fn a_system_is_solved_by_every_method() {
    let desk = desk(20);
    let mut all = Vec::new();
    for method in ["cg", "pcg-jacobi", "pcg-ic", "pcg-amg", "pcg-deflation"] {
        let json = desk.json(&format!(
            "solve linear A.mtx b.mtx --method {method} --tolerance 1e-10 --out {method}.mtx --plot {method}.svg"
        ));
        assert_eq!(json["converged"], true, "{json}");
        assert!(json["residual"].as_f64().unwrap() <= 1e-10);
        assert_eq!(json["rows"], 400);
        assert_eq!(json["entries"], 400 + 2 * 2 * 380);
        let iterations = json["iterations"].as_u64().unwrap();
        assert_eq!(
            json["residuals"].as_array().unwrap().len() as u64,
            iterations + 1
        );
        assert!(desk.get(&format!("{method}.svg")).starts_with("<svg"));
        let x = numbers(&desk.get(&format!("{method}.mtx")));
        assert_eq!(x.len(), 400);
        all.push((iterations, x));
    }
    for (_, x) in &all[1..] {
        for (a, b) in x.iter().zip(&all[0].1) {
            assert!((a - b).abs() < 1e-7);
        }
    }
    let iterations: Vec<u64> = all.iter().map(|(iterations, _)| *iterations).collect();
    assert!(
        2 * iterations[2] < iterations[0] && 4 * iterations[3] < iterations[0],
        "{iterations:?}"
    );
    // From the solution, nothing is left to do.
    let json = desk.json("solve linear A.mtx b.mtx --x0 cg.mtx --tolerance 1e-9");
    assert_eq!(json["iterations"], 0);
    let told = desk.done("solve linear A.mtx b.mtx");
    assert!(
        told.contains("pcg-ic on A.mtx of 400 rows, 1920 entries"),
        "{told}"
    );
    assert!(told.contains("certificate: ‖b − A x‖ / ‖b‖ = "), "{told}");
    // What has not converged is told and fails, and the best so far is left.
    let output =
        desk.nabla("solve linear A.mtx b.mtx --method cg --max-iterations 3 --out few.mtx");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("after 3 iterations, not 1e-8"), "{error}");
    assert_eq!(numbers(&desk.get("few.mtx")).len(), 400);
}

#[test]
fn unusual_files_are_read_with_notes() {
    let desk = desk(4);
    let matrix = desk
        .get("A.mtx")
        .replace("real symmetric", "REAL Symmetric");
    let matrix = matrix.replacen(" -1\n", " -1.0D0\n% a comment\n", 1);
    desk.put("odd.mtx", &matrix);
    let (out, err) = desk.told("solve linear odd.mtx b.mtx");
    assert!(out.contains("certificate"), "{out}");
    assert!(
        err.contains("nabla: odd.mtx: line 6 is a comment between entries"),
        "{err}"
    );
    // A general file is symmetric by its values.
    let general =
        "%%MatrixMarket matrix coordinate real general\n2 2 4\n1 1 2\n1 2 -1\n2 1 -1\n2 2 2\n";
    desk.put("general.mtx", general);
    desk.put(
        "two.mtx",
        "%%MatrixMarket matrix array integer general\n2 1\n1\n0\n",
    );
    let json = desk.json("solve linear general.mtx two.mtx --out x.mtx");
    assert_eq!(json["converged"], true);
    let x = numbers(&desk.get("x.mtx"));
    assert!((x[0] - 2.0 / 3.0).abs() < 1e-8 && (x[1] - 1.0 / 3.0).abs() < 1e-8);
    // A zero row, and walls alone: the mean is 0, and what has none is told.
    let walls = "%%MatrixMarket matrix coordinate real symmetric\n3 3 3\n1 1 1\n3 1 -1\n3 3 1\n";
    desk.put("walls.mtx", walls);
    desk.put(
        "three.mtx",
        "%%MatrixMarket matrix array real general\n3 1\n1\n0\n-1\n",
    );
    let json = desk.json("solve linear walls.mtx three.mtx --out x.mtx");
    assert_eq!(
        (&json["zero_rows"], &json["floating"]),
        (&1.into(), &1.into())
    );
    for (found, expected) in numbers(&desk.get("x.mtx")).iter().zip([0.5, 0.0, -0.5]) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
    desk.put(
        "one.mtx",
        "%%MatrixMarket matrix array real general\n3 1\n1\n0\n0\n",
    );
    let told = desk.done("solve linear walls.mtx one.mtx");
    assert!(
        told.contains("of the right side lies in the kernel"),
        "{told}"
    );
}

#[test]
fn wrong_systems_are_refused_with_the_line() {
    let desk = desk(4);
    let matrix = desk.get("A.mtx");
    let put = |name: &str, body: &str| {
        desk.put(
            name,
            &format!("%%MatrixMarket matrix coordinate real {body}"),
        );
    };
    let lines: Vec<&str> = matrix.lines().collect();
    desk.put("short.mtx", &lines[..20].join("\n"));
    desk.put("nan.mtx", &matrix.replacen(" -1\n", " nan\n", 1));
    desk.put(
        "negative.mtx",
        &matrix.replacen("\n3 3 4\n", "\n3 3 -4\n", 1),
    );
    put("skew.mtx", "skew-symmetric\n2 2 1\n2 1 1\n");
    put(
        "asymmetric.mtx",
        "general\n2 2 4\n1 1 2\n1 2 -1\n2 1 -1.5\n2 2 2\n",
    );
    put("upper.mtx", "general\n2 2 3\n1 1 2\n2 2 2\n1 2 -1\n");
    put(
        "both.mtx",
        "symmetric\n2 2 4\n1 1 2\n1 2 -1\n2 1 -1\n2 2 2\n",
    );
    put("wide.mtx", "general\n2 3 1\n1 1 2\n");
    put("indefinite.mtx", "symmetric\n2 2 3\n1 1 1\n2 1 5\n2 2 1\n");
    put("hole.mtx", "symmetric\n2 2 2\n1 1 1\n2 1 5\n");
    desk.put(
        "two.mtx",
        "%%MatrixMarket matrix array real general\n2 1\n1\n-1\n",
    );
    desk.put(
        "columns.mtx",
        "%%MatrixMarket matrix array real general\n1 2\n1\n-1\n",
    );
    for (matrix, b, told) in [
        ("none.mtx", "b.mtx", "cannot read none.mtx"),
        (
            "short.mtx",
            "b.mtx",
            "short.mtx: the file ends after line 20 with 18 of 40 entries",
        ),
        (
            "nan.mtx",
            "b.mtx",
            "nan.mtx: line 5: \"nan\" is not a finite number",
        ),
        (
            "negative.mtx",
            "b.mtx",
            "negative.mtx: line 6: the matrix is not positive definite: its entry (3, 3)",
        ),
        (
            "skew.mtx",
            "two.mtx",
            "skew.mtx: line 1: a skew-symmetric matrix",
        ),
        (
            "asymmetric.mtx",
            "two.mtx",
            "asymmetric.mtx: line 4: the matrix is not symmetric: its entry (1, 2) is -1",
        ),
        (
            "upper.mtx",
            "two.mtx",
            "upper.mtx: line 5: the matrix is not symmetric",
        ),
        (
            "both.mtx",
            "two.mtx",
            "both.mtx: line 5 has the entry (2, 1), whose mirror image is in line 4",
        ),
        (
            "wide.mtx",
            "two.mtx",
            "wide.mtx: line 2: the matrix has 2 rows and 3 columns",
        ),
        (
            "indefinite.mtx",
            "two.mtx",
            "not positive definite: in iteration 1",
        ),
        (
            "hole.mtx",
            "two.mtx",
            "hole.mtx: line 4: the matrix is not positive definite: its entry (2, 2)",
        ),
        (
            "A.mtx",
            "two.mtx",
            "two.mtx: line 2: the vector has 2 numbers, but the matrix has 16 rows",
        ),
        (
            "A.mtx",
            "columns.mtx",
            "columns.mtx: line 2: it is a matrix of 1 x 2",
        ),
        (
            "b.mtx",
            "b.mtx",
            "b.mtx: line 2: the matrix has 16 rows and 1 columns",
        ),
    ] {
        let method = if matrix == "indefinite.mtx" {
            " --method cg"
        } else {
            ""
        };
        desk.refused(
            &format!("solve linear {matrix} {b}{method} --out x.mtx --plot x.svg"),
            told,
        );
    }
    for (flags, told) in [
        ("--out A.mtx", "A.mtx is read, so it cannot be written"),
        ("--out x.txt", "name it .mtx"),
        ("--plot x.png", "name it .svg"),
        ("--tolerance nan", "the tolerance is NaN"),
        ("--weights w", "--weights is for --method dcdm"),
        ("--method dcdm", "--method dcdm needs --weights"),
        (
            "--method dcdm --weights w --grid 4x4",
            "there is no model folder w",
        ),
        (
            "--method dcdm --weights w --grid 4",
            "2 or 3 sides such as 64x64",
        ),
        ("--method lu", "lu"),
    ] {
        desk.refused(&format!("solve linear A.mtx b.mtx {flags}"), told);
    }
}

#[test]
fn directions_are_trained_and_used() {
    let desk = desk(16);
    let line = "train dcdm --grid 16x16 --ritz-vectors 100 --steps 600 --seed 1 --out net";
    let json = desk.json(line);
    assert_eq!(json["steps"], 600);
    assert!(json["loss"].as_f64().unwrap() < 0.3, "{json}");
    for file in [
        "directions.json",
        "model.safetensors",
        "recipe.toml",
        "loss.csv",
        "loss.svg",
    ] {
        assert!(desk.path("net").join(file).exists(), "{file}");
    }
    let solve = "solve linear A.mtx b.mtx --tolerance 1e-4";
    let cg = desk.json(&format!("{solve} --method cg"));
    let json = desk.json(&format!(
        "{solve} --method dcdm --weights net --grid 16x16 --out x.mtx --plot x.svg"
    ));
    assert_eq!(json["converged"], true, "{json}");
    let [own, other] = [&json, &cg].map(|json| json["iterations"].as_u64().unwrap());
    assert!(own < other, "{own} {other}");
    desk.refused(
        &format!("{solve} --method dcdm --weights net --grid 16x15"),
        "--grid has 240 cells, but A.mtx has 256 rows",
    );
    desk.refused(
        &format!("{solve} --method dcdm --weights net --grid 4x8x8"),
        "the network is for grids of 2 dimensions, but this one has 3",
    );
    let recipe = desk.done("train dcdm --print-recipe --grid 8x8x8 --large --channels 4");
    assert!(
        recipe.contains("dimensions = 3") && recipe.contains("coarse = 5"),
        "{recipe}"
    );
    desk.put("recipe.toml", &recipe);
    assert_eq!(
        desk.done("train dcdm --print-recipe --recipe recipe.toml"),
        recipe
    );
}
