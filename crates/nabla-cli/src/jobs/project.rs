//! `nabla project`: a panorama as tangent planes or a cube map, and back.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nabla::base::check_writable;
use nabla::data::{Picture, Raster, ReadOptions, WriteOptions};
use nabla::panorama::pictures::{
    join_alpha, on_the_sphere, panorama_metadata, planar_metadata, split_alpha,
};
use nabla::panorama::projection_files::{
    OutputFolder, PlaneRows, TangentFolder, face_files, lossless_extension, panorama_height,
    plane_size, read_cube_picture, read_faces,
};
use nabla::panorama::{
    CubeLayout, CubemapProjection, Erp, ErpArea, Interpolation, TangentOptions, TangentProjection,
};
use serde::Serialize;

use crate::choice::choice;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::picture_files::{check_not_the_input, is_writable_image, read_panorama, told_left_out};

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// A panorama; for `--to erp` a folder of planes or faces, or a picture of all faces
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// A folder for planes or faces; an image file for a panorama, or for all faces in one picture
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// What to make
    #[arg(long, value_enum)]
    to: Target,
    /// Pixels along a side of a plane or face, or rows of the panorama [default: the resolution of IN]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=32_000))]
    size: Option<u32>,
    /// How the faces are arranged in one picture [default: strip, or what the size of IN implies]
    #[arg(long, value_parser = choice::<CubeLayout>())]
    layout: Option<CubeLayout>,
    /// The tangent planes
    #[arg(long, value_parser = choice::<PlaneRows>(), default_value = "octadecaplex")]
    planes: PlaneRows,
    /// Field of view of a tangent plane, in degrees
    #[arg(long, value_name = "DEGREES", default_value_t = 75.0)]
    fov: f64,
    /// How to interpolate
    #[arg(long, value_parser = choice::<Interpolation>(), default_value = "bicubic")]
    interpolation: Interpolation,
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

#[derive(Serialize)]
struct Made {
    output: PathBuf,
    files: Vec<String>,
    /// Width and height of each file.
    size: [u32; 2],
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        check_not_the_input(&self.input, &self.output)?;
        let mut note = |text: &str| {
            context.note_at_end(&format!("{}: {text}", self.input.display()));
        };
        let made = match self.to {
            Target::Tangent => self.to_tangent(&mut note)?,
            Target::Cubemap => self.to_cubemap(&mut note)?,
            Target::Erp => self.to_erp(&mut note)?,
        };
        context.report(&made, || {
            let [width, height] = made.size;
            let count = match made.files.len() {
                0 | 1 => String::new(),
                n => format!("{n} files of "),
            };
            format!(
                "{}: {count}{width} x {height} pixels\n",
                made.output.display()
            )
        })
    }
}

impl Arguments {
    /// Reads the panorama, or puts a part of one into the full sphere.
    fn sphere(&self, note: &mut dyn FnMut(&str)) -> Result<(Picture, Erp), Failure> {
        let (picture, area) = read_panorama(&self.input, &ReadOptions::default(), note)?;
        Ok((on_the_sphere(picture, &area), area.whole()))
    }

    /// The given size, or `usual`.
    fn size_or(&self, usual: usize) -> usize {
        self.size.map_or(usual, |size| size as usize)
    }

    /// The result of the job: files in a folder, or one picture.
    fn made(&self, files: Vec<String>, size: [u32; 2]) -> Made {
        Made {
            output: self.output.clone(),
            files,
            size,
        }
    }

    fn to_tangent(&self, note: &mut dyn FnMut(&str)) -> Result<Made, Failure> {
        let (picture, erp) = self.sphere(note)?;
        let size = self.size_or(plane_size(erp));
        let grid = self.planes.grid(self.fov)?;
        let options = TangentOptions::of(self.interpolation);
        let projection = TangentProjection::new(grid.clone(), erp, size, options)?;
        let folder = OutputFolder::check(&self.output)?;
        let planes = projection.to_tangent(&join_alpha(&picture))?;
        let described = TangentFolder::of(&grid, erp, size, lossless_extension(&picture));
        let pixels = [size as u32; 2];
        let metadata = planar_metadata(&picture.metadata, picture.size(), pixels);
        let files = described.planes.iter().cloned().zip(planes);
        folder.write(
            files.map(|(name, plane)| (name, split_alpha(plane, &picture, metadata.clone()))),
            Some(&described),
        )?;
        Ok(self.made(described.planes, pixels))
    }

    fn to_cubemap(&self, note: &mut dyn FnMut(&str)) -> Result<Made, Failure> {
        let (picture, erp) = self.sphere(note)?;
        let size = self.size_or(plane_size(erp));
        let projection = CubemapProjection::new(erp, size, self.interpolation)?;
        if !is_writable_image(&self.output) {
            if self.layout.is_some() {
                return Err(Failure::input(format!(
                    "--layout needs one picture for all faces, but {} is not an image file",
                    self.output.display()
                )));
            }
            let folder = OutputFolder::check(&self.output)?;
            let pixels = [size as u32; 2];
            let metadata = planar_metadata(&picture.metadata, picture.size(), pixels);
            let faces = projection.to_cubemap(&join_alpha(&picture))?.into_faces();
            let files = face_files(lossless_extension(&picture));
            let pictures = files.iter().cloned().zip(faces);
            folder.write(
                pictures.map(|(name, face)| (name, split_alpha(face, &picture, metadata.clone()))),
                None,
            )?;
            return Ok(self.made(files, pixels));
        }
        let layout = self.layout.unwrap_or_default();
        let (rows, columns) = layout.shape();
        let pixels = [(columns * size) as u32, (rows * size) as u32];
        let options = WriteOptions::default();
        picture.check(&self.output, pixels, &options)?;
        check_writable(&self.output)?;
        told_left_out(&picture, &self.output, note);
        let cube = projection.to_cubemap(&join_alpha(&picture))?;
        let metadata = planar_metadata(&picture.metadata, picture.size(), pixels);
        split_alpha(cube.to_layout(layout), &picture, metadata).write(&self.output, &options)?;
        Ok(self.made(Vec::new(), pixels))
    }

    fn to_erp(&self, note: &mut dyn FnMut(&str)) -> Result<Made, Failure> {
        let (joined, like) = match TangentFolder::is(&self.input) {
            true => self.erp_of_planes()?,
            false => self.erp_of_cube()?,
        };
        let size = [joined.width() as u32, joined.height() as u32];
        let metadata = planar_metadata(&like.metadata, like.size(), size);
        let whole = ErpArea::full(Erp::of(&joined).map_err(Failure::input)?);
        let metadata = panorama_metadata(&metadata, size, &whole, note);
        split_alpha(joined, &like, metadata).write(&self.output, &WriteOptions::default())?;
        Ok(self.made(Vec::new(), size))
    }

    fn erp_of_planes(&self) -> Result<(Raster, Picture), Failure> {
        let (described, grid) = TangentFolder::read(&self.input)?;
        let erp = erp(self.size_or(described.panorama_height))?;
        let (planes, like) = described.planes(&self.input)?;
        self.check_output(&like, erp)?;
        let options = TangentOptions::of(self.interpolation);
        let projection = TangentProjection::new(grid, erp, described.plane_size, options)?;
        Ok((projection.to_erp(&planes)?, like))
    }

    fn erp_of_cube(&self) -> Result<(Raster, Picture), Failure> {
        let (cube, like) = match self.input.is_dir() {
            true => read_faces(&self.input)?,
            false => read_cube_picture(&self.input, self.layout)?,
        };
        let erp = erp(self.size_or(panorama_height(&cube)))?;
        let projection = CubemapProjection::new(erp, cube.size(), self.interpolation)?;
        self.check_output(&like, erp)?;
        Ok((projection.to_erp(&cube)?, like))
    }

    /// Refuses, before the work, an output that cannot be written.
    fn check_output(&self, like: &Picture, erp: Erp) -> Result<(), Failure> {
        let size = [erp.width() as u32, erp.height() as u32];
        like.check(&self.output, size, &WriteOptions::default())?;
        check_writable(&self.output)?;
        Ok(())
    }
}

fn erp(height: usize) -> Result<Erp, Failure> {
    Erp::new(height, height.saturating_mul(2)).map_err(Failure::input)
}
