//! `nabla project`: a panorama as tangent planes or a cube map, and back.
//!
//! Planes and faces are files in a folder, since each is a picture of its own; the folder of
//! tangent planes has a `tangent.json` that says how they lie, so that they find back. A cube map
//! can also be one picture of all faces.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use nabla::base::{OutputError, check_writable, write_bytes_atomically};
use nabla::data::{Light, Picture, Raster, ReadOptions, WriteOptions};
use nabla::panorama::{
    CubeFace, CubeLayout, Cubemap, CubemapProjection, Erp, ErpArea, Interpolation, TangentGrid,
    TangentOptions, TangentProjection,
};
use serde::{Deserialize, Serialize};

use crate::errors::Failure;
use crate::output::{print, print_json};
use crate::picture_files::{
    check_not_the_input, is_writable_image, join_alpha, note_of, on_the_sphere, panorama_metadata,
    planar_metadata, read_panorama, split_alpha, told_left_out,
};

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// A panorama; for `--to erp` a folder of planes or faces, or a picture of all faces
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// A folder for planes or faces, an image file for a panorama or for all faces in one picture
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// What to make
    #[arg(long, value_enum)]
    to: Target,
    /// Pixels along a side of a plane or face, or rows of the panorama [default: as fine as IN]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=32_000))]
    size: Option<u32>,
    /// How the faces lie in one picture [default: strip, or what the sides of IN say]
    #[arg(long, value_enum)]
    layout: Option<Layout>,
    /// The tangent planes
    #[arg(long, value_enum, default_value_t)]
    planes: Planes,
    /// Field of view of a tangent plane, degrees
    #[arg(long, value_name = "DEGREES", default_value_t = 75.0)]
    fov: f64,
    /// How to interpolate
    #[arg(long, value_enum, default_value_t)]
    interpolation: Kernel,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Pictures on planes that touch the sphere
    Tangent,
    /// The six faces of a cube
    Cubemap,
    /// An equirectangular panorama
    Erp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// One row: front, right, back, left, up, down
    Strip,
    /// Two rows: right, left, up; down, front, back
    Dice,
    /// The unfolded cube, four by three faces
    Cross,
}

impl From<Layout> for CubeLayout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Strip => Self::Strip,
            Layout::Dice => Self::Dice,
            Layout::Cross => Self::Cross,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Planes {
    /// 18 planes in rows of 3, 6, 6, 3 (OmniSSR)
    #[default]
    Octadecaplex,
    /// 10 planes in rows of 3, 4, 3
    ThreeRows,
    /// 26 planes in rows of 3, 6, 8, 6, 3
    FiveRows,
    /// 46 planes in rows of 3, 8, 12, 12, 8, 3
    SixRows,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Kernel {
    /// The nearest pixel
    Nearest,
    /// 2 x 2 pixels
    Bilinear,
    /// 4 x 4 pixels, a = −0.75, as in OpenCV: the best of the cubic ones for photographs
    #[default]
    Bicubic,
    /// 4 x 4 pixels, a = −0.5, as in Pillow: the most exact on what is smooth
    BicubicKeys,
    /// 6 x 6 pixels
    Lanczos,
}

impl From<Kernel> for Interpolation {
    fn from(kernel: Kernel) -> Self {
        match kernel {
            Kernel::Nearest => Self::Nearest,
            Kernel::Bilinear => Self::Bilinear,
            Kernel::Bicubic => Self::BICUBIC_SHARP,
            Kernel::BicubicKeys => Self::BICUBIC,
            Kernel::Lanczos => Self::Lanczos3,
        }
    }
}

/// The file that says how the planes of a folder lie.
const TANGENT_FILE: &str = "tangent.json";

/// What [`TANGENT_FILE`] holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TangentFile {
    /// Rows of the panorama that the planes are of.
    panorama_height: usize,
    /// Pixels along a side of a plane.
    plane_size: usize,
    /// Field of view of a plane, degrees.
    fov: f64,
    /// Latitude in degrees and number of planes of each row.
    rows: Vec<(f64, usize)>,
    /// The files of the planes, row by row.
    planes: Vec<String>,
}

/// The faces, in the order of a [`Cubemap`], and the names of their files without the extension.
const FACES: [(CubeFace, &str); 6] = [
    (CubeFace::Front, "front"),
    (CubeFace::Right, "right"),
    (CubeFace::Back, "back"),
    (CubeFace::Left, "left"),
    (CubeFace::Up, "up"),
    (CubeFace::Down, "down"),
];

/// The extension of files that lose nothing of `picture`.
fn extension_for(picture: &Picture) -> &'static str {
    match picture.light {
        Light::Display => "png",
        Light::Linear => "exr",
    }
}

/// The panorama, or the part of one, in the whole of it.
fn read_sphere(arguments: &Arguments) -> Result<(Picture, Erp), Failure> {
    let mut note = note_of(&arguments.input);
    let (picture, area) = read_panorama(&arguments.input, &ReadOptions::default(), &mut note)?;
    Ok((on_the_sphere(picture, &area), area.whole()))
}

#[derive(Serialize)]
struct Made {
    output: PathBuf,
    files: Vec<String>,
    /// Width and height of each file.
    size: [u32; 2],
}

/// Does the job.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    check_not_the_input(&arguments.input, &arguments.output)?;
    let made = match arguments.to {
        Target::Tangent => to_tangent(arguments)?,
        Target::Cubemap => to_cubemap(arguments)?,
        Target::Erp => to_erp(arguments)?,
    };
    if arguments.json {
        print_json(&made)
    } else {
        let [width, height] = made.size;
        let count = match made.files.len() {
            0 | 1 => String::new(),
            n => format!("{n} files of "),
        };
        print(&format!(
            "{}: {count}{width} x {height} pixels\n",
            made.output.display()
        ))
    }
}

fn to_tangent(arguments: &Arguments) -> Result<Made, Failure> {
    let (picture, erp) = read_sphere(arguments)?;
    let size = arguments
        .size
        .map_or(erp.height().div_ceil(2), |s| s as usize);
    let grid = grid(arguments)?;
    let interpolation = arguments.interpolation.into();
    let projection = projection(grid.clone(), erp, size, interpolation)?;
    let folder = OutputFolder::check(&arguments.output)?;
    let planes = projection.to_tangent(&join_alpha(&picture))?;
    let names: Vec<String> = (0..planes.len())
        .map(|i| format!("plane_{i:02}.{}", extension_for(&picture)))
        .collect();
    let pixels = [size as u32; 2];
    let metadata = planar_metadata(&picture.metadata, picture.size(), pixels);
    let files = names.iter().cloned().zip(planes);
    folder.write(
        files.map(|(name, plane)| (name, split_alpha(plane, &picture, metadata.clone()))),
        Some(&TangentFile {
            panorama_height: erp.height(),
            plane_size: size,
            fov: grid.fov(),
            rows: grid.rows().to_vec(),
            planes: names.clone(),
        }),
    )?;
    Ok(Made {
        output: arguments.output.clone(),
        files: names,
        size: pixels,
    })
}

fn grid(arguments: &Arguments) -> Result<TangentGrid, Failure> {
    let fov = arguments.fov;
    Ok(match arguments.planes {
        Planes::Octadecaplex => TangentGrid::new(TangentGrid::octadecaplex().rows().to_vec(), fov)?,
        Planes::ThreeRows => TangentGrid::three_rows(fov)?,
        Planes::FiveRows => TangentGrid::five_rows(fov)?,
        Planes::SixRows => TangentGrid::six_rows(fov)?,
    })
}

fn projection(
    grid: TangentGrid,
    erp: Erp,
    size: usize,
    interpolation: Interpolation,
) -> Result<TangentProjection, Failure> {
    let options = TangentOptions::of(interpolation);
    Ok(TangentProjection::new(grid, erp, size, options)?)
}

fn to_cubemap(arguments: &Arguments) -> Result<Made, Failure> {
    let (picture, erp) = read_sphere(arguments)?;
    let size = arguments
        .size
        .map_or(erp.height().div_ceil(2), |s| s as usize);
    let projection = CubemapProjection::new(erp, size, arguments.interpolation.into())?;
    if !is_writable_image(&arguments.output) {
        if arguments.layout.is_some() {
            return Err(Failure::input(format!(
                "--layout is for one picture of all faces, but {} is no image file",
                arguments.output.display()
            )));
        }
        let folder = OutputFolder::check(&arguments.output)?;
        let pixels = [size as u32; 2];
        let metadata = planar_metadata(&picture.metadata, picture.size(), pixels);
        let faces = projection.to_cubemap(&join_alpha(&picture))?.into_faces();
        let extension = extension_for(&picture);
        let files = FACES.iter().map(|(_, name)| format!("{name}.{extension}"));
        folder.write(
            files
                .clone()
                .zip(faces)
                .map(|(name, face)| (name, split_alpha(face, &picture, metadata.clone()))),
            None,
        )?;
        return Ok(Made {
            output: arguments.output.clone(),
            files: files.collect(),
            size: pixels,
        });
    }
    let layout = CubeLayout::from(arguments.layout.unwrap_or(Layout::Strip));
    let (rows, columns) = layout.shape();
    let pixels = [(columns * size) as u32, (rows * size) as u32];
    let options = WriteOptions::default();
    picture.check(&arguments.output, pixels, &options)?;
    check_writable(&arguments.output)?;
    told_left_out(&picture, &arguments.output, &mut note_of(&arguments.input));
    let cube = projection.to_cubemap(&join_alpha(&picture))?;
    let metadata = planar_metadata(&picture.metadata, picture.size(), pixels);
    split_alpha(cube.to_layout(layout), &picture, metadata).write(&arguments.output, &options)?;
    Ok(Made {
        output: arguments.output.clone(),
        files: Vec::new(),
        size: pixels,
    })
}

fn to_erp(arguments: &Arguments) -> Result<Made, Failure> {
    let options = WriteOptions::default();
    let interpolation = arguments.interpolation.into();
    let (joined, like) = if arguments.input.join(TANGENT_FILE).is_file() {
        tangent_to_erp(arguments, interpolation)?
    } else {
        let (cube, like) = read_cube(arguments)?;
        let height = arguments.size.map_or(2 * cube.size(), |s| s as usize);
        let erp = Erp::new(height, 2 * height).map_err(Failure::input)?;
        let way = CubemapProjection::new(erp, cube.size(), interpolation)?;
        check_output(arguments, &like, erp)?;
        (way.to_erp(&cube)?, like)
    };
    let size = [joined.width() as u32, joined.height() as u32];
    let metadata = planar_metadata(&like.metadata, like.size(), size);
    let whole = ErpArea::full(Erp::of(&joined).map_err(Failure::input)?);
    let mut note = note_of(&arguments.input);
    let metadata = panorama_metadata(&metadata, size, &whole, &mut note);
    split_alpha(joined, &like, metadata).write(&arguments.output, &options)?;
    Ok(Made {
        output: arguments.output.clone(),
        files: Vec::new(),
        size,
    })
}

/// Tells before the work whether the panorama can be written.
fn check_output(arguments: &Arguments, like: &Picture, erp: Erp) -> Result<(), Failure> {
    let size = [erp.width() as u32, erp.height() as u32];
    like.check(&arguments.output, size, &WriteOptions::default())?;
    check_writable(&arguments.output)?;
    Ok(())
}

fn tangent_to_erp(
    arguments: &Arguments,
    interpolation: Interpolation,
) -> Result<(Raster, Picture), Failure> {
    let path = arguments.input.join(TANGENT_FILE);
    let wrong = |reason: String| {
        Failure::input(format!(
            "{} does not describe tangent planes: {reason}",
            path.display()
        ))
    };
    let text = fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
    let file: TangentFile = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let plain = |name: &String| Path::new(name).file_name() == Some(name.as_ref());
    if let Some(name) = file.planes.iter().find(|name| !plain(name)) {
        return Err(wrong(format!("{name:?} is not the name of a file")));
    }
    let grid = TangentGrid::new(file.rows, file.fov)?;
    let height = arguments.size.map_or(file.panorama_height, |s| s as usize);
    let erp = Erp::new(height, height.saturating_mul(2)).map_err(|e| wrong(e.to_string()))?;
    if file.planes.len() != grid.len() {
        let (named, needed) = (file.planes.len(), grid.len());
        return Err(wrong(format!(
            "it names {named} planes, but its rows have {needed}"
        )));
    }
    let (planes, like) = read_alike(file.planes.iter().map(|name| arguments.input.join(name)))?;
    check_output(arguments, &like, erp)?;
    let projection = projection(grid, erp, file.plane_size, interpolation)?;
    Ok((projection.to_erp(&planes)?, like))
}

fn read_cube(arguments: &Arguments) -> Result<(Cubemap, Picture), Failure> {
    if arguments.input.is_dir() {
        let has = |extension: &&str| {
            let front = arguments.input.join(FACES[0].1);
            front.with_extension(extension).is_file()
        };
        let Some(extension) = ["png", "exr"].into_iter().find(has) else {
            return Err(Failure::input(format!(
                "{} holds neither {TANGENT_FILE} nor the faces front.png, right.png, back.png, \
                 left.png, up.png and down.png, nor such faces as .exr",
                arguments.input.display()
            )));
        };
        let name = |name: &str| format!("{name}.{extension}");
        let paths = FACES
            .iter()
            .map(|(_, face)| arguments.input.join(name(face)));
        let (faces, like) = read_alike(paths)?;
        return Ok((Cubemap::from_faces(faces)?, like));
    }
    let picture = Picture::read(&arguments.input)?;
    let [width, height] = picture.size().map(u64::from);
    let layout = match arguments.layout {
        Some(layout) => layout,
        None if width == 6 * height => Layout::Strip,
        None if 2 * width == 3 * height => Layout::Dice,
        None if 3 * width == 4 * height => Layout::Cross,
        None => {
            return Err(Failure::input(format!(
                "{} is no picture of the faces of a cube: {width} x {height} pixels are neither \
                 6:1 (strip) nor 3:2 (dice) nor 4:3 (cross)",
                arguments.input.display()
            )));
        }
    };
    Ok((
        Cubemap::from_layout(&join_alpha(&picture), layout.into())?,
        picture,
    ))
}

/// Reads pictures that must have one shape; the first of them stands for all.
fn read_alike(paths: impl Iterator<Item = PathBuf>) -> Result<(Vec<Raster>, Picture), Failure> {
    let mut rasters: Vec<Raster> = Vec::new();
    let mut first: Option<(Picture, PathBuf)> = None;
    for path in paths {
        let picture = Picture::read(&path)?;
        let joined = join_alpha(&picture);
        match &first {
            None => first = Some((picture, path)),
            Some((_, one)) if rasters[0].shape() != joined.shape() => {
                return Err(Failure::input(format!(
                    "{} and {} must have the same size and channels",
                    one.display(),
                    path.display()
                )));
            }
            Some(_) => {}
        }
        rasters.push(joined);
    }
    match first {
        Some((picture, _)) => Ok((rasters, picture)),
        None => Err(Failure::input("there are no planes to read")),
    }
}

/// A folder of pictures that belong together.
struct OutputFolder<'a> {
    path: &'a Path,
    existed: bool,
}

impl<'a> OutputFolder<'a> {
    /// Tells, before the work, whether the folder can be filled: it is absent or empty.
    fn check(path: &'a Path) -> Result<Self, Failure> {
        let told = |reason: &str| {
            Err(Failure::input(format!(
                "cannot write to the folder {}: {reason}",
                path.display()
            )))
        };
        match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return told("it is not empty");
                }
                check_writable(&path.join("picture.png"))?;
                Ok(Self {
                    path,
                    existed: true,
                })
            }
            Err(_) if path.exists() => told("it is a file"),
            Err(_) => {
                check_writable(path)?;
                Ok(Self {
                    path,
                    existed: false,
                })
            }
        }
    }

    /// Writes all files, or leaves none.
    fn write(
        &self,
        pictures: impl Iterator<Item = (String, Picture)>,
        description: Option<&TangentFile>,
    ) -> Result<(), Failure> {
        let outcome = self.write_files(pictures, description);
        if outcome.is_err() {
            // The folder was empty, so that all in it is ours. What stays is told by the error.
            let entries = fs::read_dir(self.path).into_iter().flatten().flatten();
            for entry in entries {
                let _ = fs::remove_file(entry.path());
            }
            if !self.existed {
                let _ = fs::remove_dir(self.path);
            }
        }
        outcome
    }

    fn write_files(
        &self,
        pictures: impl Iterator<Item = (String, Picture)>,
        description: Option<&TangentFile>,
    ) -> Result<(), Failure> {
        if !self.existed {
            fs::create_dir(self.path).map_err(|source| OutputError::Io {
                path: self.path.into(),
                source,
            })?;
        }
        for (name, picture) in pictures {
            picture.write(&self.path.join(name), &WriteOptions::default())?;
        }
        // Last, so that a folder with it is complete.
        if let Some(description) = description {
            let path = self.path.join(TANGENT_FILE);
            let text = serde_json::to_string_pretty(description).map_err(Failure::run)?;
            write_bytes_atomically(&path, format!("{text}\n").as_bytes())?;
        }
        Ok(())
    }
}
