//! Lines of the kernel's GPIO chips: where one is.

use anyhow::Context;
use porin_core::config::GpioLine;

/// The chip of a line, and its number there.
///
/// # Errors
/// If no line has the name.
pub(crate) fn find(line: &GpioLine) -> anyhow::Result<(String, u32)> {
    match line {
        GpioLine::Numbered(chip, number) => Ok((chip.clone(), *number)),
        GpioLine::Named(name) => {
            let found = gpiocdev::find_named_line(name).with_context(|| {
                format!("no chip that can be opened has a line `{name}` (`gpioinfo` lists them; group gpio)")
            })?;
            Ok((found.chip.display().to_string(), found.info.offset))
        }
    }
}
