//! Tangent planes and cube maps in files.
//!
//! Planes and faces are files in a folder, because each is a separate picture:
//!
//! | folder | files |
//! |---|---|
//! | of tangent planes | `plane_00.png`, `plane_01.png` … row by row, and [`tangent.json`](TangentFolder), which describes their positions, so that they can be projected back |
//! | of a cube map | `front.png`, `right.png`, `back.png`, `left.png`, `up.png`, `down.png` |
//!
//! Linear light is stored as `.exr` instead of `.png`, so that nothing is lost. A cube map can also be one
//! picture of all faces, in one of the [layouts](CubeLayout); if no layout is given when reading it, it
//! follows from the ratio of the sides: 6:1 strip, 3:2 dice, 4:3 cross.
//!
//! By default, a plane or face has half as many rows as its panorama, which gives a field of about 90 degrees
//! the resolution of the panorama, and a panorama has twice as many rows as a face; see [`plane_size`] and
//! [`panorama_height`].

use std::fs;
use std::path::{Path, PathBuf};

use nabla_base::choices::Choices;
use nabla_base::{
    OutputError, check_writable, choices, write_bytes_atomically, write_folder_atomically,
};
use nabla_data::{ImageFileError, Light, Picture, Raster, WriteOptions};
use serde::{Deserialize, Serialize};

use crate::pictures::join_alpha;
use crate::{CubeFace, CubeLayout, Cubemap, CubemapError, Erp, TangentGrid, TangentGridError};

/// The reason why planes or faces cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionFileError {
    /// A picture cannot be read or written.
    #[error(transparent)]
    Image(#[from] ImageFileError),
    /// Another file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The faces do not form a cube.
    #[error(transparent)]
    Cubemap(#[from] CubemapError),
    /// The planes do not see the whole sphere.
    #[error(transparent)]
    Grid(#[from] TangentGridError),
    /// A folder cannot be filled.
    #[error("cannot write to the folder {}: {reason}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why it cannot.
        reason: &'static str,
    },
    /// A `tangent.json` is invalid.
    #[error("{} does not describe tangent planes: {reason}", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// Why it is invalid.
        reason: String,
    },
    /// A folder has no planes or faces.
    #[error(
        "{} holds neither {TANGENT_FILE} nor the faces front.png, right.png, back.png, left.png, \
         up.png and down.png, nor such faces as .exr", path.display()
    )]
    NoFaces {
        /// The folder.
        path: PathBuf,
    },
    /// The sides of a picture fit no layout.
    #[error(
        "{} is not a picture of a cube's faces: {width} x {height} pixels are neither 6:1 (strip) \
         nor 3:2 (dice) nor 4:3 (cross)", path.display()
    )]
    NoLayout {
        /// The picture.
        path: PathBuf,
        /// Pixels of a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// Pictures do not belong together.
    #[error("{} and {} must have the same size and channels", first.display(), other.display())]
    Different {
        /// The first picture.
        first: PathBuf,
        /// One that differs.
        other: PathBuf,
    },
    /// There are no pictures.
    #[error("there are no planes to read")]
    Empty,
}

/// The arrangement of tangent planes on the sphere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlaneRows {
    /// The grid of OmniSSR, [`TangentGrid::octadecaplex`].
    #[default]
    Octadecaplex,
    /// [`TangentGrid::three_rows`]
    Three,
    /// [`TangentGrid::five_rows`]
    Five,
    /// [`TangentGrid::six_rows`]
    Six,
}

choices! {
    PlaneRows: "grid of planes" {
        "octadecaplex" => Self::Octadecaplex, "18 planes in rows of 3, 6, 6, 3 (OmniSSR)";
        "three-rows" => Self::Three, "10 planes in rows of 3, 4, 3";
        "five-rows" => Self::Five, "26 planes in rows of 3, 6, 8, 6, 3";
        "six-rows" => Self::Six, "46 planes in rows of 3, 8, 12, 12, 8, 3";
    }
}

impl PlaneRows {
    /// The grid of planes with a field of view of `fov` degrees.
    ///
    /// # Errors
    /// If the field of view leaves a hole or is out of range.
    pub fn grid(self, fov: f64) -> Result<TangentGrid, TangentGridError> {
        match self {
            Self::Octadecaplex => {
                TangentGrid::new(TangentGrid::octadecaplex().rows().to_vec(), fov)
            }
            Self::Three => TangentGrid::three_rows(fov),
            Self::Five => TangentGrid::five_rows(fov),
            Self::Six => TangentGrid::six_rows(fov),
        }
    }
}

/// Pixels along a side of a plane or face with the resolution of its panorama.
pub fn plane_size(panorama: Erp) -> usize {
    panorama.height().div_ceil(2)
}

/// Rows of a panorama with the resolution of the faces of its cube map.
pub fn panorama_height(cube: &Cubemap) -> usize {
    2 * cube.size()
}

/// The extension of files that store `picture` without loss: `png`, or `exr` for linear light.
pub fn lossless_extension(picture: &Picture) -> &'static str {
    match picture.light {
        Light::Display => EXTENSIONS[0],
        Light::Linear => EXTENSIONS[1],
    }
}

const EXTENSIONS: [&str; 2] = ["png", "exr"];

/// The name of the file of a face, without its extension.
fn face_name(face: CubeFace) -> &'static str {
    match face {
        CubeFace::Front => "front",
        CubeFace::Right => "right",
        CubeFace::Back => "back",
        CubeFace::Left => "left",
        CubeFace::Up => "up",
        CubeFace::Down => "down",
    }
}

/// The names of the files of a cube map, in the order of [`Cubemap::faces`].
pub fn face_files(extension: &str) -> Vec<String> {
    let name = |face| format!("{}.{extension}", face_name(face));
    CubeFace::ALL.map(name).to_vec()
}

/// The file names of the planes.
pub fn plane_files(planes: usize, extension: &str) -> Vec<String> {
    (0..planes)
        .map(|i| format!("plane_{i:02}.{extension}"))
        .collect()
}

/// The layout of the faces in a picture, according to its sides.
pub fn layout_of(width: u32, height: u32) -> Option<CubeLayout> {
    let (width, height) = (u64::from(width), u64::from(height));
    // `(width, height)` of a layout in faces, all of which have another ratio.
    let fits = |layout: &CubeLayout| {
        let (rows, columns) = layout.shape();
        width * rows as u64 == height * columns as u64
    };
    let mut layouts = CubeLayout::choices().into_iter().map(|choice| choice.value);
    layouts.find(fits)
}

/// The file that describes the planes of a folder.
pub const TANGENT_FILE: &str = "tangent.json";

/// A folder of tangent planes, as described by its `tangent.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TangentFolder {
    /// Rows of the panorama of the planes.
    pub panorama_height: usize,
    /// Pixels along a side of a plane.
    pub plane_size: usize,
    /// Field of view of a plane, degrees.
    pub fov: f64,
    /// Latitude in degrees and number of planes of each row.
    pub rows: Vec<(f64, usize)>,
    /// The files of the planes, row by row.
    pub planes: Vec<String>,
}

impl TangentFolder {
    /// Describes planes of `size` by `size` pixels for a panorama.
    pub fn of(grid: &TangentGrid, panorama: Erp, size: usize, extension: &str) -> Self {
        Self {
            panorama_height: panorama.height(),
            plane_size: size,
            fov: grid.fov(),
            rows: grid.rows().to_vec(),
            planes: plane_files(grid.len(), extension),
        }
    }

    /// Whether a folder is one of tangent planes.
    pub fn is(folder: &Path) -> bool {
        folder.join(TANGENT_FILE).is_file()
    }

    /// Reads the description of a folder, and the grid that it describes.
    ///
    /// # Errors
    /// If the file cannot be read or is not a description, or if its planes are not files of the folder, or
    /// do not match its rows.
    pub fn read(folder: &Path) -> Result<(Self, TangentGrid), ProjectionFileError> {
        let path = folder.join(TANGENT_FILE);
        let wrong = |reason: String| ProjectionFileError::Description {
            path: path.clone(),
            reason,
        };
        let text = fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
        let read: Self = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let plain = |name: &String| Path::new(name).file_name() == Some(name.as_ref());
        if let Some(name) = read.planes.iter().find(|name| !plain(name)) {
            return Err(wrong(format!("{name:?} is not the name of a file")));
        }
        let grid = TangentGrid::new(read.rows.clone(), read.fov)?;
        if let Err(e) = Erp::new(read.panorama_height, read.panorama_height.saturating_mul(2)) {
            return Err(wrong(e.to_string()));
        }
        let (named, needed) = (read.planes.len(), grid.len());
        if named != needed {
            return Err(wrong(format!(
                "it names {named} planes, but its rows have {needed}"
            )));
        }
        Ok((read, grid))
    }

    /// The planes with their opacity as a channel, and the first picture, which represents all.
    ///
    /// # Errors
    /// If one of them cannot be read, or differs in size from the first.
    pub fn planes(&self, folder: &Path) -> Result<(Vec<Raster>, Picture), ProjectionFileError> {
        read_alike(self.planes.iter().map(|name| folder.join(name)))
    }
}

/// The faces of a folder, with their opacity as a channel, and the first picture, which represents all.
///
/// # Errors
/// If there are none, or they cannot be read or do not belong together.
pub fn read_faces(folder: &Path) -> Result<(Cubemap, Picture), ProjectionFileError> {
    let has = |extension: &&str| {
        let front = folder.join(face_name(CubeFace::Front));
        front.with_extension(extension).is_file()
    };
    let extension = EXTENSIONS.into_iter().find(has);
    let extension = extension.ok_or_else(|| ProjectionFileError::NoFaces {
        path: folder.into(),
    })?;
    let files = face_files(extension).into_iter();
    let (faces, like) = read_alike(files.map(|name| folder.join(name)))?;
    Ok((Cubemap::from_faces(faces)?, like))
}

/// The faces of one picture, with their opacity as a channel, and the picture.
///
/// - `layout`: the layout of the faces; `None` to derive it from the sides
///
/// # Errors
/// If the picture cannot be read, or its sides fit no layout.
pub fn read_cube_picture(
    path: &Path,
    layout: Option<CubeLayout>,
) -> Result<(Cubemap, Picture), ProjectionFileError> {
    let picture = Picture::read(path)?;
    let [width, height] = picture.size();
    let layout = layout.or_else(|| layout_of(width, height));
    let layout = layout.ok_or_else(|| ProjectionFileError::NoLayout {
        path: path.into(),
        width,
        height,
    })?;
    let cube = Cubemap::from_layout(&join_alpha(&picture), layout)?;
    Ok((cube, picture))
}

/// Reads pictures that must have the same shape; the first represents all.
fn read_alike(
    paths: impl Iterator<Item = PathBuf>,
) -> Result<(Vec<Raster>, Picture), ProjectionFileError> {
    let mut rasters: Vec<Raster> = Vec::new();
    let mut first: Option<(Picture, PathBuf)> = None;
    for path in paths {
        let picture = Picture::read(&path)?;
        let joined = join_alpha(&picture);
        match &first {
            None => first = Some((picture, path)),
            Some((_, one)) if rasters[0].shape() != joined.shape() => {
                return Err(ProjectionFileError::Different {
                    first: one.clone(),
                    other: path,
                });
            }
            Some(_) => {}
        }
        rasters.push(joined);
    }
    match first {
        Some((picture, _)) => Ok((rasters, picture)),
        None => Err(ProjectionFileError::Empty),
    }
}

/// A folder for pictures that belong together.
#[derive(Debug)]
pub struct OutputFolder<'a> {
    path: &'a Path,
}

impl<'a> OutputFolder<'a> {
    /// Checks, before the work, whether the folder can be filled.
    ///
    /// # Errors
    /// If it exists and is not empty, is a file, or cannot be written.
    pub fn check(path: &'a Path) -> Result<Self, ProjectionFileError> {
        let wrong = |reason| ProjectionFileError::Folder {
            path: path.into(),
            reason,
        };
        match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(wrong("it is not empty"));
                }
                check_writable(&path.join("picture.png"))?;
            }
            Err(_) if path.exists() => return Err(wrong("it is a file")),
            Err(_) => check_writable(path)?,
        }
        Ok(Self { path })
    }

    /// Writes all pictures under their names, and the description if there is one; on an error or when the
    /// program is interrupted, leaves none of them ([`write_folder_atomically`]).
    ///
    /// # Errors
    /// If a file cannot be written, or the folder is no longer empty.
    pub fn write(
        &self,
        pictures: impl Iterator<Item = (String, Picture)>,
        description: Option<&TangentFolder>,
    ) -> Result<(), ProjectionFileError> {
        let options = WriteOptions::default();
        write_folder_atomically(self.path, |folder| -> Result<(), ProjectionFileError> {
            for (name, picture) in pictures {
                let path = self.path.join(&name);
                picture.check(&path, picture.size(), &options)?;
                let written = picture.write(&folder.join(name), &options);
                written.map_err(|error| of_output(error, path))?;
            }
            let Some(description) = description else {
                return Ok(());
            };
            let path = self.path.join(TANGENT_FILE);
            let text = serde_json::to_string_pretty(description).map_err(|e| {
                ProjectionFileError::Description {
                    path: path.clone(),
                    reason: e.to_string(),
                }
            })?;
            let text = format!("{text}\n");
            write_bytes_atomically(&folder.join(TANGENT_FILE), text.as_bytes())?;
            Ok(())
        })
    }
}

/// Makes an error name the output instead of the temporary file, whose name means nothing to the user.
fn of_output(error: ImageFileError, path: PathBuf) -> ImageFileError {
    match error {
        ImageFileError::Output(OutputError::Io { source, .. }) => {
            OutputError::Io { path, source }.into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use nabla_data::BitDepth;

    use super::*;

    fn plane(size: usize) -> Picture {
        let raster = Raster::from_fn(3, size, size, |c, y, x| (c + y + x) as f32 / 64.0);
        Picture::new(raster, BitDepth::Eight)
    }

    fn named(names: &[String], size: usize) -> impl Iterator<Item = (String, Picture)> {
        names.iter().cloned().map(move |name| (name, plane(size)))
    }

    #[test]
    fn the_sides_of_a_picture_say_how_its_faces_lie() {
        for layout in [CubeLayout::Strip, CubeLayout::Dice, CubeLayout::Cross] {
            let (rows, columns) = layout.shape();
            let (width, height) = (8 * columns as u32, 8 * rows as u32);
            assert_eq!(layout_of(width, height), Some(layout));
        }
        assert_eq!(layout_of(64, 32), None);
        assert_eq!(layout_of(u32::MAX, u32::MAX), None);
    }

    #[test]
    fn a_folder_of_planes_says_how_they_lie() {
        let desk = tempfile::tempdir().unwrap();
        let path = desk.path().join("planes");
        let grid = PlaneRows::Three.grid(95.0).unwrap();
        let panorama = Erp::new(16, 32).unwrap();
        let size = plane_size(panorama);
        let described = TangentFolder::of(&grid, panorama, size, "png");
        assert_eq!((size, described.planes.len()), (8, 10));
        let folder = OutputFolder::check(&path).unwrap();
        let pictures = named(&described.planes, size);
        folder.write(pictures, Some(&described)).unwrap();

        assert!(TangentFolder::is(&path));
        let (read, found) = TangentFolder::read(&path).unwrap();
        assert_eq!((&read, found.rows()), (&described, grid.rows()));
        let (planes, like) = read.planes(&path).unwrap();
        assert_eq!((planes.len(), like.size()), (10, [8, 8]));

        // A plane that is of another size, absent, or outside of the folder.
        plane(4)
            .write(&path.join("plane_03.png"), &WriteOptions::default())
            .unwrap();
        let told = read.planes(&path).unwrap_err().to_string();
        assert!(told.contains("plane_00.png") && told.contains("plane_03.png"));
        fs::remove_file(path.join("plane_03.png")).unwrap();
        assert!(read.planes(&path).is_err());
        let mut outside = read.clone();
        outside.planes[0] = "../a.png".to_owned();
        let text = serde_json::to_string(&outside).unwrap();
        fs::write(path.join(TANGENT_FILE), text).unwrap();
        let told = TangentFolder::read(&path).unwrap_err().to_string();
        assert!(told.contains("is not the name of a file"), "{told}");
    }

    #[test]
    fn a_folder_is_whole_or_not_there() {
        let desk = tempfile::tempdir().unwrap();
        let path = desk.path().join("faces");
        let files = face_files("png");
        let folder = OutputFolder::check(&path).unwrap();
        let broken = named(&files, 4).chain([("face.nothing".to_owned(), plane(4))]);
        let told = folder.write(broken, None).unwrap_err().to_string();
        assert!(
            told.contains("face.nothing") && !told.contains(".part"),
            "{told}"
        );
        assert_eq!(fs::read_dir(desk.path()).unwrap().count(), 0);
        folder.write(named(&files, 4), None).unwrap();
        let (cube, _) = read_faces(&path).unwrap();
        assert_eq!((cube.size(), panorama_height(&cube)), (4, 8));
        let told = OutputFolder::check(&path).unwrap_err().to_string();
        assert!(told.contains("it is not empty"), "{told}");
        let told = read_faces(desk.path()).unwrap_err().to_string();
        assert!(told.contains("holds neither tangent.json"), "{told}");
    }

    #[test]
    fn grids_have_the_rows_that_their_names_say() {
        for (rows, planes, fov) in [
            (PlaneRows::Octadecaplex, 18, 75.0),
            (PlaneRows::Three, 10, 95.0),
            (PlaneRows::Five, 26, 75.0),
            (PlaneRows::Six, 46, 75.0),
        ] {
            assert_eq!(rows.grid(fov).unwrap().len(), planes);
        }
        let grid = PlaneRows::default().grid(75.0).unwrap();
        assert_eq!(grid.rows(), TangentGrid::octadecaplex().rows());
    }
}
