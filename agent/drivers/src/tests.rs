//! Every chip against what its datasheet says goes over the bus, and against buses that fail.

use alloc::{boxed::Box, string::ToString, vec, vec::Vec};

use embedded_hal::{
    i2c::{ErrorKind, NoAcknowledgeSource},
    spi,
};
use embedded_hal_mock::eh1::{
    delay::NoopDelay,
    i2c::{Mock, Transaction},
    spi::{Mock as SpiMock, Transaction as SpiTransaction},
};

use super::*;

const NACK: ErrorKind = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);

fn options(set: &[(&str, f64)]) -> Options {
    Options(set.iter().map(|(name, value)| ((*name).into(), *value)).collect())
}

fn share(mock: &Mock) -> impl Fn() -> Mock + use<> {
    let mock = mock.clone();
    move || mock.clone()
}

fn open(name: &str, address: u8, set: &[(&str, f64)], script: &[Transaction]) -> (Box<dyn Sensor>, Mock) {
    let options = options(set);
    options.fit(chip(name).expect("known")).expect("they fit");
    let mock = Mock::new(script);
    (open_i2c(name, share(&mock), address, NoopDelay, &options).expect("on I²C"), mock)
}

/// Begins, measures as often as there are expectations, and sees that nothing else went over the bus.
fn check(
    name: &str,
    address: u8,
    set: &[(&str, f64)],
    script: &[Transaction],
    expected: &[Result<Option<&[f64]>, &str>],
) {
    let (mut sensor, mut mock) = open(name, address, set, script);
    sensor.begin().expect("it begins");
    for expected in expected {
        let measured = sensor.measure();
        match (&measured, expected) {
            (Ok(Some(values)), Ok(Some(expected))) => {
                assert_eq!(values.len(), chip(name).expect("known").channels.len());
                let near = values.iter().zip(*expected).all(|(value, expected)| (value - expected).abs() < 0.01);
                assert!(near, "{name}: {values:?}, not {expected:?}");
            }
            (Ok(None), Ok(None)) => {}
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), *expected, "{name}"),
            _ => panic!("{name}: {measured:?}, not {expected:?}"),
        }
    }
    mock.done();
}

fn check_begin(name: &str, address: u8, script: &[Transaction], expected: &str) {
    let (mut sensor, mut mock) = open(name, address, &[], script);
    assert_eq!(sensor.begin().expect_err(name).to_string(), expected);
    mock.done();
}

fn write(address: u8, bytes: &[u8]) -> Transaction {
    Transaction::write(address, bytes.to_vec())
}

fn ask(address: u8, register: u8, answer: &[u8]) -> Transaction {
    Transaction::write_read(address, vec![register], answer.to_vec())
}

#[test]
fn thermometers_are_told_twelve_bits_and_read_as_the_tables_say() {
    let script =
        [write(0x48, &[1, 0x60]), ask(0x48, 1, &[0x60]), ask(0x48, 0, &[0x4b, 0x00]), ask(0x48, 0, &[0xe7, 0x00])];
    check("tmp105", 0x48, &[], &script, &[Ok(Some(&[75.0])), Ok(Some(&[-25.0]))]);
    let script = [write(0x49, &[1, 0x60, 0xa0]), ask(0x49, 1, &[0x60]), ask(0x49, 0, &[0x00, 0x40])];
    check("tmp102", 0x49, &[], &script, &[Ok(Some(&[0.25]))]);
    let script = [write(0x4f, &[1, 0]), ask(0x4f, 1, &[0]), ask(0x4f, 0, &[0x19, 0x00])];
    check("lm75", 0x4f, &[], &script, &[Ok(Some(&[25.0]))]);
}

#[test]
fn a_thermometer_that_is_none_or_is_away_is_said_with_its_register() {
    let other = [write(0x48, &[1, 0x60]), ask(0x48, 1, &[0x00])];
    check_begin("tmp105", 0x48, &other, "register CONFIGURATION (0x01) holds 0x0000, not 0x0060: is it another chip?");
    let away = [write(0x48, &[1, 0x60]).with_error(NACK)];
    check_begin("tmp105", 0x48, &away, "register CONFIGURATION (0x01): no acknowledge of its address");
    let stuck = [write(0x48, &[1, 0]), ask(0x48, 1, &[0]), ask(0x48, 0, &[0, 0]).with_error(ErrorKind::Bus)];
    check("lm75", 0x48, &[], &stuck, &[Err("register TEMPERATURE (0x00): the bus is stuck")]);
}

/// Calibration of the worked example in BST-BMP280-DS001 section 3.12; humidity such that 2^16 counts are 100 %.
fn bme280_calibration() -> [Transaction; 2] {
    let words = [27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000_i32];
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 16 bits, signed or not
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| (*word as u16).to_le_bytes()).collect();
    bytes.extend([0, 0]); // 0xa0, and dig_H1
    [ask(0x76, 0x88, &bytes), ask(0x76, 0xe1, &[100, 0, 0, 0, 0, 0, 0])]
}

fn bme280_begins() -> Vec<Transaction> {
    let mut script = vec![ask(0x76, 0xd0, &[0x60]), ask(0x76, 0xd0, &[0x60]), write(0x76, &[0xe0, 0xb6])];
    script.extend(bme280_calibration());
    script.extend([
        ask(0x76, 0xf4, &[0]),
        write(0x76, &[0xf2, 1]),
        ask(0x76, 0xf4, &[0]),
        write(0x76, &[0xf4, 0x24]),
        ask(0x76, 0xf5, &[0]),
        write(0x76, &[0xf5, 0]),
    ]);
    script
}

fn bme280_measures(data: &[u8]) -> [Transaction; 5] {
    [
        ask(0x76, 0xf2, &[1, 0, 0x24]),
        ask(0x76, 0xf4, &[0x24]),
        ask(0x76, 0xf4, &[0x24]),
        write(0x76, &[0xf4, 0x25]),
        ask(0x76, 0xf7, data),
    ]
}

#[test]
fn bme280_computes_the_datasheets_example() {
    let mut script = bme280_begins();
    // adc_P 415148, adc_T 519888, adc_H 32768. The datasheet has 100653.27; the driver computes in 32 bits.
    script.extend(bme280_measures(&[0x65, 0x5a, 0xc0, 0x7e, 0xed, 0x00, 0x80, 0x00]));
    check("bme280", 0x76, &[], &script, &[Ok(Some(&[25.08, 100_653.25, 50.0]))]);
}

#[test]
fn bme280_that_is_absurd_stands_at_the_end_of_its_range_and_is_beyond_it() {
    let mut script = bme280_begins();
    script.extend(bme280_measures(&[0, 0, 0, 0, 0, 0, 0, 0]));
    let (mut sensor, mut mock) = open("bme280", 0x76, &[], &script);
    sensor.begin().expect("it begins");
    let values = sensor.measure().expect("it answers").expect("it has data");
    let channels = chip("bme280").expect("known").channels;
    assert!(!channels[0].is_within(values[0]) && !channels[1].is_within(values[1]), "{values:?}");
    mock.done();
}

#[test]
fn bme280_that_was_without_power_is_not_believed() {
    let mut script = bme280_begins();
    script.push(ask(0x76, 0xf2, &[0, 0, 0]));
    let expected = "register ctrl_hum (0xf2) does not hold what it was told: was the chip without power?";
    check("bme280", 0x76, &[], &script, &[Err(expected)]);
}

#[test]
fn bme280_is_not_taken_for_a_bmp280() {
    check_begin(
        "bme280",
        0x76,
        &[ask(0x76, 0xd0, &[0x58])],
        "register id (0xd0) holds 0x0058, not 0x0060: is it another chip?",
    );
    check_begin(
        "bme280",
        0x76,
        &[ask(0x76, 0xd0, &[0]).with_error(NACK)],
        "register id (0xd0): no acknowledge of its address",
    );
}

/// Sensirion's checksum: polynomial 0x31 from 0xff, over two bytes. Their example: 0xbeef has 0x92.
fn word(value: u16) -> [u8; 3] {
    let [high, low] = value.to_be_bytes();
    let mut crc = 0xff_u8;
    for byte in [high, low] {
        crc ^= byte;
        for _ in 0..8 {
            crc = if crc & 0x80 == 0 { crc << 1 } else { crc << 1 ^ 0x31 };
        }
    }
    [high, low, crc]
}

fn words(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| word(*value)).collect()
}

#[test]
fn sht4x_measures_and_its_checksum_is_looked_at() {
    assert_eq!(word(0xbeef)[2], 0x92);
    let begins = [write(0x44, &[0x89]), Transaction::read(0x44, words(&[0x1234, 0x5678]))];
    let asks = || write(0x44, &[0xfd]);
    let mut script = begins.to_vec();
    // Section 4.6: S_T = 2^16 × 0.4 is 25 °C; S_RH beyond the end is cut off there.
    script.extend([asks(), Transaction::read(0x44, words(&[26_214, 32_768]))]);
    script.extend([asks(), Transaction::read(0x44, words(&[26_214, 0xffff]))]);
    let mut spoilt = words(&[26_214, 32_768]);
    spoilt[2] ^= 1;
    script.extend([asks(), Transaction::read(0x44, spoilt)]);
    script.push(asks().with_error(NACK));
    let expected = [
        Ok(Some(&[25.0, 56.5][..])),
        Ok(Some(&[25.0, 100.0][..])),
        Err("register measure, high precision (0xfd): the checksum is wrong"),
        Err("register measure, high precision (0xfd): no acknowledge of its address"),
    ];
    check("sht4x", 0x44, &[], &script, &expected);
}

#[test]
fn scd4x_has_no_data_between_its_measurements() {
    let ready = |word: u16| [write(0x62, &[0xe4, 0xb8]), Transaction::read(0x62, words(&[word]))];
    let mut script = vec![
        write(0x62, &[0x3f, 0x86]),
        write(0x62, &[0x36, 0x82]),
        Transaction::read(0x62, words(&[0xf896, 0x9f07, 0x3bbe])),
        write(0x62, &[vec![0x24, 0x27], words(&[300])].concat()),
        write(0x62, &[0x21, 0xb1]),
    ];
    script.extend(ready(0x8000));
    script.extend(ready(0x8006));
    // The example of section 3.6.2: 500 ppm, 25 °C, 37 %.
    script.extend([write(0x62, &[0xec, 0x05]), Transaction::read(0x62, words(&[0x01f4, 0x6667, 0x5eb9]))]);
    let mut spoilt = words(&[0x8006]);
    spoilt[2] ^= 0x80;
    script.extend([write(0x62, &[0xe4, 0xb8]), Transaction::read(0x62, spoilt)]);
    let expected = [
        Ok(None),
        Ok(Some(&[500.0, 25.0, 37.0][..])),
        Err("register get_data_ready_status (0xe4b8): the checksum is wrong"),
    ];
    check("scd4x", 0x62, &[("altitude", 300.0)], &script, &expected);
    check_begin(
        "scd4x",
        0x62,
        &[write(0x62, &[0x3f, 0x86]).with_error(NACK)],
        "register stop_periodic_measurement (0x3f86): no acknowledge of its address",
    );
}

#[test]
fn ina219_computes_the_datasheets_example() {
    let word = |register: u8, value: u16| ask(0x40, register, &value.to_be_bytes());
    let begins = vec![write(0x40, &[0, 0xb9, 0x9f]), word(0, 0x399f), write(0x40, &[5, 0x50, 0x00])];
    let measures = |voltage: u16, power: u16| {
        [word(5, 0x5000), word(2, voltage), word(3, power), word(1, 0x07d0), word(4, 0x2710)]
    };
    // SBOS448 table 8: 20 mV at 2 mΩ, 11.98 V; then no new conversion; then more than it can compute.
    let mut script = begins.clone();
    script.extend(measures(0x5d9a, 0x1766));
    script.extend(measures(0x5d98, 0x1766));
    script.extend(measures(0x5d9b, 0x1766));
    let expected = [
        Ok(Some(&[11.98, 10.0, 119.8][..])),
        Ok(None),
        Err(
            "register bus voltage (0x02): what it says cannot be: more than `current` flows: its calculation overflowed",
        ),
    ];
    check("ina219", 0x40, &[("shunt", 0.002), ("current", 32.75)], &script, &expected);

    // 24 V and 30 A: the power register is above half of its range, and has no sign. 24 V is 6000 × 4 mV.
    let mut script = begins.clone();
    script.extend([word(5, 0x5000), word(2, 6_000 << 3 | 2), word(3, 36_000), word(1, 6_000), word(4, 30_000)]);
    // Without power for a moment: it would say that no current flows.
    script.push(word(5, 0));
    let expected = [
        Ok(Some(&[24.0, 30.0, 720.0][..])),
        Err("register calibration (0x05) does not hold what it was told: was the chip without power?"),
    ];
    check("ina219", 0x40, &[("shunt", 0.002), ("current", 32.75)], &script, &expected);
}

#[test]
fn ina219_that_is_another_chip_is_said_with_its_register() {
    let mut script = vec![write(0x40, &[0, 0xb9, 0x9f])];
    script.extend((0..13).map(|_| ask(0x40, 0, &[0x61, 0x27])));
    let expected = "register configuration (0x00) holds 0x6127, not 0x399f: is it another chip?";
    check_begin("ina219", 0x40, &script, expected);
}

/// One input: started at this multiplexer, busy for so long, then this result.
fn ads1115_converts(config: u16, busy: usize, count: u16) -> Vec<Transaction> {
    let state = |bits: u16| ask(0x48, 1, &(config & 0x7fff | bits).to_be_bytes());
    let [high, low] = (config | 0x8000).to_be_bytes();
    let mut script = vec![state(0x8000), write(0x48, &[1, high, low])];
    script.extend((0..busy).map(|_| state(0)));
    script.extend([state(0x8000), ask(0x48, 0, &count.to_be_bytes())]);
    script
}

#[test]
fn ads1115_converts_each_input_and_is_not_waited_for_for_ever() {
    // PGA 001 is ±4.096 V; MUX 100 to 111 are the inputs against ground (SBAS444 table 8-3).
    let mut script = vec![write(0x48, &[1, 0x83, 0x83])];
    script.extend(ads1115_converts(0x4383, 3, 0x7fff));
    script.extend(ads1115_converts(0x5383, 0, 0x4000));
    script.extend(ads1115_converts(0x6383, 0, 0x0001));
    script.extend(ads1115_converts(0x7383, 0, 0xffff));
    check("ads1115", 0x48, &[], &script, &[Ok(Some(&[4.095_875, 2.048, 0.000_125, -0.000_125]))]);
    let mut stuck = vec![write(0x48, &[1, 0x83, 0x83])];
    stuck.extend((0..33).map(|_| ask(0x48, 1, &[0x03, 0x83])));
    check("ads1115", 0x48, &[], &stuck, &[Err("register Config (0x01): still busy after 32 ms")]);
}

#[test]
fn mcp3008_reads_eight_inputs_and_knows_when_nobody_answers() {
    let input = |number: u8, answer: [u8; 3]| {
        vec![
            SpiTransaction::transaction_start(),
            SpiTransaction::transfer_in_place(vec![1, 0x80 | number << 4, 0], answer.to_vec()),
            SpiTransaction::transaction_end(),
        ]
    };
    let codes: [u16; 8] = [0, 1, 512, 1023, 256, 2, 3, 4];
    let mut script = input(0, [0, 0, 0]);
    for (number, code) in (0..8).zip(codes) {
        let [high, low] = code.to_be_bytes();
        script.extend(input(number, [0xff, 0xf8 | high, low]));
    }
    script.extend(input(0, [0xff, 0xff, 0xff]));
    let mut mock = SpiMock::new(&script);
    let mut sensor = open_spi("mcp3008", mock.clone(), &options(&[("reference", 5.12)])).expect("on SPI");
    sensor.begin().expect("it answers");
    let values = sensor.measure().expect("it answers").expect("it has data");
    for (value, code) in values.iter().zip(codes) {
        assert!((value - f64::from(code) * 0.005).abs() < 1e-9, "{values:?}");
    }
    let absent = sensor.measure().expect_err("all ones").to_string();
    assert_eq!(absent, "conversion: what it says cannot be: its null bit is one: no answer");
    mock.done();
}

#[test]
fn buses_that_fail_are_told_apart() {
    let at = Place::step("conversion");
    let said = |kind: ErrorKind| Error::i2c(at, &kind).to_string();
    assert_eq!(said(ErrorKind::ArbitrationLoss), "conversion: arbitration was lost");
    assert_eq!(said(ErrorKind::Overrun), "conversion: the bus was overrun");
    assert_eq!(Error::spi(at, &spi::ErrorKind::ModeFault).to_string(), "conversion: another master is on the bus");
}

#[test]
fn every_chip_can_be_opened_where_it_belongs_and_nowhere_else() {
    for chip in CHIPS {
        let none = Options::default();
        let (mut i2c, mut spi) = (Mock::new(&[]), SpiMock::<u8>::new(&[]));
        let on_i2c = open_i2c(chip.name, share(&i2c), 0x48, NoopDelay, &none).is_ok();
        let on_spi = open_spi(chip.name, spi.clone(), &none).is_ok();
        assert_eq!((on_i2c, on_spi), (matches!(chip.wiring, Wiring::I2c(_)), matches!(chip.wiring, Wiring::Spi(_))));
        assert_eq!(CHIPS.iter().filter(|other| other.name == chip.name).count(), 1, "{}", chip.name);
        for setting in chip.options {
            assert!(setting.bounds.0 <= setting.default && setting.default <= setting.bounds.1, "{}", setting.name);
        }
        i2c.done();
        spi.done();
    }
}

/// Told the control registers that it has after a reset (DocID17530 table 21).
fn lis3dh_begins(range: u8) -> Vec<Transaction> {
    vec![
        ask(0x18, 0x0f, &[0x33]),
        ask(0x18, 0x0f, &[0x33]),
        write(0x18, &[0x23, 0x80]),
        ask(0x18, 0x20, &[0x07]),
        write(0x18, &[0x20, 0x07]),
        ask(0x18, 0x23, &[0x80]),
        write(0x18, &[0x23, 0x88]),
        ask(0x18, 0x20, &[0x07]),
        write(0x18, &[0x20, 0x57]),
        ask(0x18, 0x20, &[0x57]),
        write(0x18, &[0x20, 0x57]),
        ask(0x18, 0x1f, &[0x00]),
        write(0x18, &[0x1f, 0x80]),
        ask(0x18, 0x23, &[0x88]),
        write(0x18, &[0x23, 0x88 | range << 4]),
    ]
}

#[test]
fn an_accelerometer_says_what_stands_still_and_what_is_new() {
    // 1 g is 1,000 counts of 1 mg, in the upper twelve bits; −2 g is the end (table 4).
    let mut script = lis3dh_begins(0);
    script.extend([
        ask(0x18, 0x27, &[0x08]),
        ask(0x18, 0xa8, &[0x00, 0x00, 0x80, 0x3e, 0x00, 0x80]),
        ask(0x18, 0x27, &[0x00]),
        ask(0x18, 0x27, &[0x08]).with_error(NACK),
    ]);
    let still = [0.0, 9.806_65, -2.048 * 9.806_65];
    let away = "register STATUS_REG (0x27): no acknowledge of its address";
    check("lis3dh", 0x18, &[], &script, &[Ok(Some(&still)), Ok(None), Err(away)]);
    let mut script = lis3dh_begins(3);
    script.extend([ask(0x18, 0x27, &[0x0f]), ask(0x18, 0xa8, &[0x10, 0x00, 0xf0, 0xff, 0x00, 0x00])]);
    check("lis3dh", 0x18, &[("full_scale", 9.0)], &script, &[Ok(Some(&[0.117_68, -0.117_68, 0.0]))]);
}

#[test]
fn an_accelerometer_that_is_another_chip_or_is_stuck_is_told() {
    let other = [ask(0x18, 0x0f, &[0x32])];
    check_begin("lis3dh", 0x18, &other, "register WHO_AM_I (0x0f) holds 0x0032, not 0x0033: is it another chip?");
    let away = [ask(0x18, 0x0f, &[0]).with_error(NACK)];
    check_begin("lis3dh", 0x18, &away, "register WHO_AM_I (0x0f): no acknowledge of its address");
    let mut stuck = lis3dh_begins(0);
    stuck.truncate(3);
    stuck[2] = write(0x18, &[0x23, 0x80]).with_error(ErrorKind::Bus);
    check_begin("lis3dh", 0x18, &stuck, "register CTRL_REG4 (0x23): the bus is stuck");
}

#[test]
fn options_that_do_not_fit_are_named() {
    let check = |name: &str, set: &[(&str, f64)], expected: &str| {
        assert_eq!(options(set).fit(chip(name).expect("known")), Err(expected.into()));
    };
    check("ina219", &[("shunts", 0.1)], "ina219 has no option `shunts` (known: shunt, current)");
    check("ina219", &[("shunt", 0.0)], "option shunt = 0 of ina219: 0.001 to 10 (resistance of the shunt, in ohms)");
    check(
        "mcp3008",
        &[("reference", f64::NAN)],
        "option reference = NaN of mcp3008: 0.25 to 5.5 (voltage at VREF, in V)",
    );
}
