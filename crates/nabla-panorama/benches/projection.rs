//! Panorama to planes and back, against the Python packages that people use for it.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench --profile release -p nabla-panorama --bench projection
//! ```
//!
//! `NABLA_PYTHON` names a Python with the packages of `peers/projection.py`; without it only our
//! own numbers are printed. All take the same panorama (2048 x 1024, three channels of `f32`) and
//! sample as many points (planes and faces of 512 x 512) on two threads. They take turns, and the
//! best time of each counts; that of the processors says more where other programs run. Tables of
//! positions are made beforehand, as far as a package keeps them. `Nabla in place` writes over the
//! pictures of the round before, as a program does that projects again and again; `Nabla` takes
//! fresh memory in each round. (OpenCV's `to_tangent` drops each plane before it makes the next,
//! and so gets the same memory again for all of them.)
//! The loss is that of the round trip, in dB of WS-PSNR: for a held-out panorama as it is, at half
//! that size, and for the timed one.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use nabla_data::{PanoramaSet, Raster};
use nabla_panorama::{
    Cubemap, CubemapProjection, Erp, Interpolation, TangentGrid, TangentOptions, TangentProjection,
    resize_erp, ws_psnr,
};

type Error = Box<dyn std::error::Error>;

const ROUNDS: usize = 9;
/// For the slowest program.
const SLOW_ROUNDS: usize = 3;
const PEERS: [&str; 3] = ["py360convert", "equilib", "OpenCV remap"];

/// The other programs, which answer over a pipe.
struct Peers {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Peers {
    fn start(python: &str, folder: &Path, panorama: &Raster, plane: usize) -> Result<Self, Error> {
        let [channels, height, width] = panorama.shape();
        let mut bytes = Vec::with_capacity(4 * panorama.data().len());
        for i in 0..height * width {
            for c in 0..channels {
                bytes.extend(panorama.plane(c)[i].to_le_bytes());
            }
        }
        fs::write(folder.join("erp.f32"), bytes)?;
        let grid = TangentGrid::octadecaplex();
        let sizes = serde_json::json!({
            "height": height, "plane": plane, "fov": grid.fov(), "rows": grid.rows(),
        });
        fs::write(folder.join("sizes.json"), sizes.to_string())?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/projection.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no pipe to Python")?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe from Python")?);
        Ok(Self {
            child,
            input,
            output,
            folder: folder.into(),
        })
    }

    fn ask(&mut self, question: &str) -> Result<String, Error> {
        writeln!(self.input, "{question}")?;
        let mut answer = String::new();
        if self.output.read_line(&mut answer)? == 0 {
            return Err(format!("Python gave up at {question:?}").into());
        }
        Ok(answer.trim().into())
    }

    fn run(&mut self, name: &str) -> Result<Times, Error> {
        let answer = self.ask(&format!("run {name}"))?;
        let (wall, work) = answer.split_once(' ').ok_or("not two times")?;
        Ok([wall.parse()?, work.parse()?])
    }

    /// The panorama that came back, `[3, height, width]`, if the job has one.
    fn result(&mut self, name: &str, erp: Erp) -> Result<Option<Raster>, Error> {
        if self.ask(&format!("save {name}"))? != "ok" {
            return Ok(None);
        }
        let file = name.replace(['/', ' '], "_") + ".f32";
        let bytes = fs::read(self.folder.join(file))?;
        let values: Vec<f32> = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let width = erp.width();
        Ok(Some(Raster::from_fn(3, erp.height(), width, |c, y, x| {
            values[(y * width + x) * 3 + c]
        })))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // Closing the pipe would do; asking first lets Python end in order.
        let _ = writeln!(self.input, "quit");
        let _ = self.child.wait();
    }
}

/// What a job makes, to be written over by its next run.
struct Made {
    planes: Vec<Raster>,
    cube: Option<Cubemap>,
    back: Option<Raster>,
}

impl Made {
    fn nothing() -> Self {
        Self {
            planes: Vec::new(),
            cube: None,
            back: None,
        }
    }
}

/// A way there and perhaps back.
type Job = Box<dyn Fn(&Raster, &mut Made) -> Result<(), Error>>;

fn ours(job: &str, erp: Erp, plane: usize, interpolation: Interpolation) -> Result<Job, Error> {
    let empty = || Raster::zeros(0, 0, 0);
    if job == "cube" {
        let way = CubemapProjection::new(erp, plane, interpolation)?;
        return Ok(Box::new(move |p, made| {
            let cube = match &mut made.cube {
                Some(cube) => {
                    way.to_cubemap_into(p, cube)?;
                    cube
                }
                none => none.insert(way.to_cubemap(p)?),
            };
            Ok(way.to_erp_into(cube, made.back.get_or_insert_with(empty))?)
        }));
    }
    let options = TangentOptions::of(interpolation);
    let way = TangentProjection::new(TangentGrid::octadecaplex(), erp, plane, options)?;
    let both = job == "tangent";
    Ok(Box::new(move |p, made| {
        way.to_tangent_into(p, &mut made.planes)?;
        if both {
            way.to_erp_into(&made.planes, made.back.get_or_insert_with(empty))?;
        }
        Ok(())
    }))
}

/// Milliseconds by the clock, and of all processors together.
type Times = [f64; 2];

/// Whatever else the machine does only adds to a time, so the least is the nearest to the truth.
fn best(times: &[Times]) -> Times {
    let least = |i: usize| times.iter().map(|t| t[i]).fold(f64::INFINITY, f64::min);
    [least(0), least(1)]
}

/// Milliseconds that the threads of this process have run (Linux; else not a number).
fn work() -> f64 {
    let tasks = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let nanoseconds: Vec<f64> = tasks
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse().ok())
        .collect();
    if nanoseconds.is_empty() {
        f64::NAN
    } else {
        nanoseconds.iter().sum::<f64>() / 1e6
    }
}

fn loss(source: &Raster, back: Option<&Raster>) -> Result<String, Error> {
    Ok(match back {
        Some(back) => format!("{:.2}", ws_psnr(source, back)?),
        None => "-".into(),
    })
}

fn main() -> Result<(), Error> {
    // `cargo test --benches` runs it without this argument: nothing to measure then.
    if !std::env::args().any(|a| a == "--bench") {
        return Ok(());
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build_global()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/panoramas");
    let set = PanoramaSet::open(&folder)?;
    let small = set.load(set.sample())?.raster;
    let large = resize_erp(&small, 1024, Interpolation::BICUBIC)?;
    let half = resize_erp(&small, 256, Interpolation::BICUBIC)?;
    let panoramas = [&large, &small, &half];
    let python = std::env::var("NABLA_PYTHON").ok();
    let folders = [(); 3].map(|()| tempfile::tempdir());
    let mut peers = Vec::new();
    for (panorama, folder) in panoramas.iter().zip(&folders) {
        let folder = folder.as_ref().map_err(|e| e.to_string())?.path();
        if let Some(python) = &python {
            let plane = panorama.height() / 2;
            peers.push(Peers::start(python, folder, panorama, plane)?);
        }
    }

    println!("{} best of {} rounds", set.sample(), ROUNDS);
    println!(
        "{:<11} {:<9} {:<14} {:>8} {:>6} {:>8} {:>6} {:>8} {:>8} {:>8}",
        "job",
        "kernel",
        "program",
        "ms",
        "ratio",
        "CPU ms",
        "ratio",
        "dB 2048",
        "dB 1024",
        "dB 512"
    );
    for job in ["cube", "tangent", "to_tangent"] {
        for (kernel, interpolation) in [
            ("bilinear", Interpolation::Bilinear),
            // The cubic kernel of OpenCV and PyTorch, then Keys' own.
            ("bicubic", Interpolation::BICUBIC_SHARP),
            ("keys", Interpolation::BICUBIC),
            ("lanczos3", Interpolation::Lanczos3),
        ] {
            let mut names = Vec::new();
            if !peers.is_empty() && matches!(kernel, "bilinear" | "bicubic") {
                names = PEERS
                    .iter()
                    .filter(|p| job != "tangent" || **p == "OpenCV remap")
                    .map(|p| format!("{job}/{kernel}/{p}"))
                    .collect();
            }
            let mut backs = Vec::new();
            for panorama in panoramas {
                let way = ours(
                    job,
                    Erp::of(panorama)?,
                    panorama.height() / 2,
                    interpolation,
                )?;
                let mut made = Made::nothing();
                way(panorama, &mut made)?;
                backs.push(loss(panorama, made.back.as_ref())?);
            }
            let way = ours(job, Erp::of(&large)?, 512, interpolation)?;
            let (mut own, mut theirs) = ([Vec::new(), Vec::new()], vec![Vec::new(); names.len()]);
            let mut kept = Made::nothing();
            way(&large, &mut kept)?;
            for round in 0..ROUNDS {
                for (fresh, own) in [true, false].into_iter().zip(&mut own) {
                    let (start, before) = (Instant::now(), work());
                    if fresh {
                        let mut made = Made::nothing();
                        way(&large, &mut made)?;
                        std::hint::black_box(&made);
                    } else {
                        way(&large, &mut kept)?;
                        std::hint::black_box(&kept);
                    }
                    let wall = 1000.0 * start.elapsed().as_secs_f64();
                    own.push([wall, work() - before]);
                }
                for (name, times) in names.iter().zip(&mut theirs) {
                    if round >= SLOW_ROUNDS && name.ends_with("equilib") {
                        continue;
                    }
                    times.push(peers[0].run(name)?);
                }
            }
            let [own, in_place] = own.map(|times| best(&times));
            let [a, b, c] = &backs[..] else { continue };
            for (program, time) in [("Nabla", own), ("Nabla in place", in_place)] {
                println!(
                    "{job:<11} {kernel:<9} {program:<14} {:>8.1} {:>6.2} {:>8.1} {:>6.2} {a:>8} {b:>8} {c:>8}",
                    time[0],
                    time[0] / own[0],
                    time[1],
                    time[1] / own[1]
                );
            }
            for (name, times) in names.iter().zip(theirs) {
                let mut losses = Vec::new();
                for (peer, panorama) in peers.iter_mut().zip(panoramas) {
                    peer.run(name)?;
                    let back = peer.result(name, Erp::of(panorama)?)?;
                    losses.push(loss(panorama, back.as_ref())?);
                }
                let time = best(&times);
                let program = name.rsplit('/').next().unwrap_or_default();
                let [a, b, c] = &losses[..] else { continue };
                println!(
                    "{job:<11} {kernel:<9} {program:<14} {:>8.1} {:>6.2} {:>8.1} {:>6.2} {a:>8} {b:>8} {c:>8}",
                    time[0],
                    time[0] / own[0],
                    time[1],
                    time[1] / own[1]
                );
            }
        }
    }
    Ok(())
}
