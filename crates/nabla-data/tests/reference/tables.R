# Tables as R writes them, with its row numbers and row names. Rscript tables.R
table <- data.frame(width = c(1.5, 2.5, 3.5, 4.5), height = c(4, 3, 2, 1), kind = c("a", "a", "b", "b"))
write.csv(table, "tables/r_write_csv.csv")
write.table(table, "tables/r_write_table.txt")
write.table(table, "tables/r_write_table_comma.csv", sep = ",")
rownames(table) <- c("Mazda RX4", "Merc, 240D", "Fiat 128", "Volvo 142E")
write.csv(table, "tables/r_write_csv_names.csv")
